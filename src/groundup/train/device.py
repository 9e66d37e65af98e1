"""Device setup, glibc malloc settings, deterministic algorithms."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils import deterministic

from groundup.artifacts.machine import Machine
from groundup.interop import resolve_device

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
"""Parameters of `mallopt` (glibc's malloc.h)."""
MAX_OPTION_VALUE = 2**31 - 1
TOP_PAD_BYTES = 2**28
"""Minimum growth of the heap."""


def setup_device(machine: Machine) -> torch.device:
    """Set the number of threads and return the device. Raises UserError if it is not available."""
    torch.set_num_threads(machine.threads)
    device = resolve_device(machine.device)
    if device.type == "cpu":
        disable_malloc_trim()
    if device.type == "cuda":  # required by deterministic cuBLAS
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return device


def disable_malloc_trim() -> bool:
    """Make glibc keep freed memory in this process; false if the C library is not glibc. Results do not change.

    By default glibc returns large freed blocks to the kernel, which zeroes every page that it hands out again. That takes
    a fifth of a training step on a CPU.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    options = {MMAP_THRESHOLD: MAX_OPTION_VALUE, TRIM_THRESHOLD: MAX_OPTION_VALUE, TOP_PAD: TOP_PAD_BYTES}
    results = [set_option(name, value) for name, value in options.items()]
    return results == [1] * len(options)


@contextmanager
def deterministic_algorithms(device: torch.device, enabled: bool) -> Iterator[None]:
    """Context of bit-reproducible operations on an accelerator, in particular the gradient of attention.

    For training steps only: some operations outside of them, such as sampling, have no deterministic implementation.
    """
    if device.type != "cuda" or not enabled:
        yield
        return
    # To fill memory that is not written yet finds bugs, and costs time:
    deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
