"""Products of a few rows with matrices in float32, bfloat16, or in codes that are multiplied as they are unpacked.

A row's product is the same, bit for bit, whatever rows are beside it and however many threads work on it.
"""

import ctypes
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from groundup.generate.native.native_library import load_native

SOURCE = Path(__file__).with_name("decode_step.c")
FLOAT_KINDS = {torch.float32: 1, torch.bfloat16: 2}
CODE_KINDS = {4: 3, 8: 4, 6: 5}
TILE_ROWS = 64
"""Rows of a tile of codes that the C code reads."""


class NativeMatrix(ctypes.Structure):
    """`matrix` of matrix_product.h, with the tensors that it points to."""

    _fields_ = (
        *((name, ctypes.c_long) for name in ("kind", "rows", "columns", "group", "parts")),
        *((name, ctypes.c_void_p) for name in ("data", "high", "grid", "bias", "order")),
    )
    tensors: tuple[Tensor | None, ...]


def float_matrix(weight: Float[Tensor, "N K"], bias: Float[Tensor, " N"] | None = None) -> NativeMatrix | None:
    """A plain matrix in float32 or bfloat16; None for another one."""
    kind = FLOAT_KINDS.get(weight.dtype)
    if kind is None or weight.device.type != "cpu" or not weight.is_contiguous():
        return None
    rows, columns = weight.shape
    return _matrix(kind, rows, columns, 0, 0, weight.detach(), None, None, bias, None)


def code_matrix(
    low: Tensor, high: Tensor | None, grid: Tensor, rows: int, bias: Float[Tensor, " N"] | None, order: Tensor | None
) -> NativeMatrix:
    """A matrix of `rows` rows in codes, of which `low`, `high`, `grid` (G N 1 or 2) and `order` are those of Int4Linear."""
    columns = low.shape[1] * 2
    bits = 4 if high is None else 4 + 4 * high.shape[1] // low.shape[1]
    return _matrix(
        CODE_KINDS[bits], rows, columns, columns // len(grid), grid.shape[2], low, high, grid, bias, order
    )  # fmt: skip


def _matrix(kind: int, rows: int, columns: int, group: int, parts: int, *tensors: Tensor | None) -> NativeMatrix:
    data, high, grid, bias, order = tensors
    kept = (data, high, grid, None if bias is None else bias.detach().float().contiguous(), order)
    made = NativeMatrix(
        kind, rows, columns, group, parts, *(None if each is None else each.data_ptr() for each in kept)
    )
    made.tensors = kept
    return made


def multiply(x: Float[Tensor, "M K"], matrix: NativeMatrix) -> Float[Tensor, "M N"]:
    """x W^T + b in the dtype of x, which is float32 or bfloat16, by `torch.get_num_threads()` threads."""
    library = native_library()
    assert library is not None
    assert x.shape[1] == matrix.columns, "the C code checks no addresses"
    assert x.device.type == "cpu"
    if not len(x):  # a tile of no rows is a fault of the processor
        return x.new_empty(0, matrix.rows)
    x = x if x.stride(-1) == 1 else x.contiguous()
    y = x.new_empty(len(x), matrix.rows)
    wide = x.dtype is torch.float32
    failed = library.multiply(
        ctypes.addressof(matrix), x.data_ptr(), wide, len(x), x.stride(0), y.data_ptr(), wide, torch.get_num_threads()
    )
    if failed:
        raise MemoryError("no memory for a matrix product")
    return y


@cache
def native_library() -> ctypes.CDLL | None:
    """The compiled code; None without a compiler, or where the system refuses the processor's tiles."""
    library = load_native(SOURCE)
    if library is None or not library.prepare():
        return None
    numbers, pointer = ctypes.c_long, ctypes.c_void_p
    library.multiply.argtypes = [pointer, pointer, numbers, numbers, numbers, pointer, numbers, numbers]
    library.decode_step.argtypes = [pointer, pointer, numbers, pointer]
    return library
