"""Device setup and deterministic algorithms."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils import deterministic

from groundup.artifacts.machine import Machine
from groundup.interop import resolve_device
from groundup.train.malloc import disable_malloc_trim


def setup_device(machine: Machine) -> torch.device:
    """Set the number of threads and return the device. Raises UserError if it is not available."""
    torch.set_num_threads(machine.threads)
    device = resolve_device(machine.device)
    if device.type == "cpu":
        disable_malloc_trim()
    if device.type == "cuda":  # required by deterministic cuBLAS
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return device


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
