"""Layers with packed weights, on any device and in any floating dtype.

quantized_linear.py   the linear layer with integer codes or float8
int8_linear.py        the linear layer with weights and inputs in 8 bits
float8.py             float8 weights
quantized_experts.py   experts of a mixture as separate layers
nf4.py                NF4 with double quantization
nf4_linear.py         the linear layer with a weight in NF4, the base of QLoRA
packed_layers.py      the layer of each quantization scheme
"""
