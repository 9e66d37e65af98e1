"""Layers with packed weights, exact on any device and in any floating dtype.

quantized_linear.py   the linear layer with integer codes
quantized_experts.py   experts of a mixture as separate layers
nf4.py                NF4 with double quantization
nf4_linear.py         the linear layer with a weight in NF4, the base of QLoRA
"""
