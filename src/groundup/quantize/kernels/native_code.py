"""The one loop that PyTorch has no fast operation for, dequantization, compiled by the C compiler of the machine if there is one.

`dequantize.c` is compiled once, for this processor, into the cache folder of the user. Without a compiler, with
GROUNDUP_NATIVE=0, or where the compiler fails, PyTorch's operations do the same, five times slower.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from groundup.artifacts.machine import default_cache

SOURCE = Path(__file__).with_name("dequantize.c")
FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-shared", "-fPIC")
TIMEOUT = 60
"""Seconds for the compiler."""


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


def has_native_code() -> bool:
    """Whether `dequantize_natively` has compiled code."""
    return _function() is not None


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="dequantize")


os.register_at_fork(after_in_child=_pool.cache_clear)  # a child process has none of the threads


@cache
def _function() -> Callable[..., None] | None:
    """The function of `dequantize.c`, compiled at the first call of all processes; None without a compiler."""
    compiler = os.environ.get("CC") or shutil.which("cc")
    if os.environ.get("GROUNDUP_NATIVE") == "0" or not compiler:
        return None
    key = hashlib.sha256(b"\0".join([SOURCE.read_bytes(), " ".join(FLAGS).encode(), _processor()])).hexdigest()[:16]
    library = default_cache() / f"dequantize-{key}.so"
    try:
        if not library.is_file():
            library.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=library.parent) as folder:
                built = Path(folder) / library.name
                command = [*compiler.split(), *FLAGS, str(SOURCE), "-o", str(built)]
                subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT)
                built.rename(library)
        function = ctypes.CDLL(str(library)).dequantize_tiles
    except (OSError, subprocess.SubprocessError, AttributeError):
        return None
    function.argtypes = [ctypes.c_void_p] * 5 + [ctypes.c_long] * 7
    function.restype = None
    return function


def _processor() -> bytes:
    """What distinguishes processors that share a cache folder: their instructions, as far as the system lists them."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        lines = [platform.platform().encode(), platform.processor().encode()]
    return b"".join(sorted({line for line in lines if line.lower().startswith((b"flags", b"features"))} or lines[:2]))
