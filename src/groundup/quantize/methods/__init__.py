"""Quantization methods for one layer or block: from weights and statistics of their inputs to codes on a grid.

gptq.py              GPTQ: error-compensating rounding
awq.py               AWQ: activation-aware scales
smoothquant.py       SmoothQuant: scales between inputs and weights
autoround.py         AutoRound: learned rounding
bit_allocation.py    bits for each layer under a size
"""
