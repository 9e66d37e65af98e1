"""Which device computes, and how it must be set up for the same bits every time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils import deterministic

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.train.malloc import disable_malloc_trim


def setup_device(machine: Machine) -> torch.device:
    """Set the threads and return the device. Raises UserError for a device that is not here."""
    torch.set_num_threads(machine.threads)
    device = resolve_device(machine.device)
    if device.type == "cpu":
        disable_malloc_trim()
    if device.type == "cuda":  # where `deterministic_algorithms` would refuse products without this
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return device


@contextmanager
def deterministic_algorithms(device: torch.device, enabled: bool) -> Iterator[None]:
    """While the block runs, an accelerator sums everything in one order, above all the gradient of attention.

    Not for longer: PyTorch refuses what it has no such form of, and drawing from the likeliest tokens is among that.
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


def resolve_device(name: str) -> torch.device:
    """The torch device for "auto", "cpu", "cuda", "cuda:1" or "mps"; auto takes an accelerator when there is one."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind = name.split(":")[0]
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not here.get(kind, False):
        available = ", ".join(kind for kind, present in here.items() if present)
        raise UserError(f"machine.device = {name!r}: not here", hint=f"one of auto, {available}")
    return torch.device(name)
