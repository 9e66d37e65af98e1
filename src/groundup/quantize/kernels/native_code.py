"""Dequantization compiled by the machine's C compiler if there is one; PyTorch's operations do the same, five times slower."""

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from groundup.generate.native.native_library import load_native

SOURCE = Path(__file__).with_name("dequantize.c")


def dequantize_natively(
    planes: UInt8[Tensor, "P N half"],
    scale: Float[Tensor, "G N"],
    offset: Float[Tensor, "G N"],
    tile_rows: int,
    out: Float[Tensor, "K N"],
) -> bool:
    """`dequantize_tiles` into `out`, bfloat16, by `torch.get_num_threads()` threads; false without compiled code."""
    if (function := _function()) is None:
        return False
    width = planes.shape[2] * 2
    tiles, threads = planes.shape[1] // tile_rows, torch.get_num_threads()
    sizes = (tile_rows, width, len(scale), scale.stride(0), scale.stride(1), out.stride(0))

    def run(first: int, last: int) -> None:
        part = slice(first * tile_rows, last * tile_rows)
        high = planes[1, part].data_ptr() if len(planes) == 2 else None
        pointers = (planes[0, part], high, scale[:, part], offset[:, part], out[:, part])
        addresses = (each.data_ptr() if isinstance(each, Tensor) else each for each in pointers)
        function(*addresses, last - first, *sizes)

    bounds = [tiles * index // threads for index in range(threads + 1)]
    if threads == 1:
        run(0, tiles)
    else:
        list(_pool(threads).map(run, bounds[:-1], bounds[1:]))
    return True


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="dequantize")


os.register_at_fork(after_in_child=_pool.cache_clear)  # a child process has none of the threads


@cache
def _function() -> Callable[..., None] | None:
    """The function of `dequantize.c`; None without a compiler."""
    if (library := load_native(SOURCE, "-ffp-contract=off")) is None:
        return None
    function = library.dequantize_tiles
    function.argtypes = [ctypes.c_void_p] * 5 + [ctypes.c_long] * 7
    function.restype = None
    return function
