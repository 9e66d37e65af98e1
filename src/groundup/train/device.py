"""Which device computes, and how it must be set up for the same bits every time."""

import os

import torch
from torch.utils import deterministic

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.train.heap import keep_freed_memory


def prepare(machine: Machine) -> torch.device:
    """Set the threads and return the device. Raises UserError for a device that is not here."""
    torch.set_num_threads(machine.threads)
    device = resolve(machine.device)
    if device.type == "cpu":
        keep_freed_memory()
    if device.type == "cuda":
        _be_deterministic(machine.deterministic)
    return device


def _be_deterministic(wanted: bool) -> None:
    """Have the gradient of attention, above all, summed in one order every time."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it products would be refused
    setattr(deterministic, "fill_uninitialized_memory", False)  # which finds bugs, and costs time
    torch.use_deterministic_algorithms(wanted)


def resolve(name: str) -> torch.device:
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
