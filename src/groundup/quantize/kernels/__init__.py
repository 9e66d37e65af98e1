"""Layers in the layouts of fast kernels, for inference.

native_code.py     dequantization compiled by the C compiler of the machine, if there is one (dequantize.c)
int4_layout.py     the layout of PyTorch's int4 kernel
int4_cpu.py        products with codes of up to 8 bits on a CPU, compiled (generate/native) or PyTorch's
int4_cuda.py       products with codes of 4 bits on a GPU, PyTorch's
kernel_choice.py   a quantized model made ready for inference
"""
