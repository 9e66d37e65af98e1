"""Which device computes, and how it must be set up for the same bits every time."""

import torch

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.train.heap import keep_freed_memory


def prepare(machine: Machine) -> torch.device:
    """Set the threads and return the device. Raises UserError for a device that is not here."""
    torch.set_num_threads(machine.threads)
    device = resolve(machine.device)
    if device.type == "cpu":
        keep_freed_memory()
    return device


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
