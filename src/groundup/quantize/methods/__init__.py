"""Quantization methods for one layer: from its weight and statistics of its inputs to codes on a grid.

gptq.py              GPTQ: error-compensating rounding
awq.py               AWQ: activation-aware scales
bit_allocation.py    bits for each layer under a size
"""
