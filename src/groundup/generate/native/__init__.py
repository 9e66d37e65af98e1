"""Inference in C, where the machine has a C compiler; PyTorch's operations do the same elsewhere.

native_library.py  compiling and loading
native_matrix.py   matrices as the C code reads them, and products with them (matrix_product.h, packed_codes.h, thread_pool.h)
model_state.py     whether a model has changed since its weights were read
decode_step.py     all blocks of a decoder in one call (decode_step.c)
"""
