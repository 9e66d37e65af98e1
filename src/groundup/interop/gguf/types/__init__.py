"""Packed types of GGUF tensors: k-quants and their simpler forerunners, unpacked and made.

Files, in reading order:

    gguf_blocks.py      the bytes of a block as codes and scales
    block_rounding.py   float rows to blocks
    tensor_types.py     the type of each tensor of a file: Q4_K_M and the other mixes

Deliberately absent: making the IQ types, which need tables of codebooks; they are read.
"""
