"""Layers in the layouts of fast kernels, for inference.

int4_cpu.py   PyTorch's int4 kernel for small batches on a CPU
"""
