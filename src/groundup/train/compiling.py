"""Whether to compile: it makes every step a little faster, after a while in which nothing is learnt."""

import importlib.util
import os
import shutil
from typing import Literal

import torch

from groundup.artifacts.machine import Machine

Compile = Literal["auto", "always", "never"]

WORTH = {"cpu": 5e14, "cuda": 1e17}
"""Operations of a run above which compiling is taken to pay. CPU: 43 s at a gain of 5% are won back after a quarter of an
hour of two cores with matrix units (lab book, 30M weights). CUDA: two minutes of an H100, an estimate."""


def compiles(machine: Machine, device: torch.device, operations: float) -> bool:
    """Whether a run of so many operations is to be compiled; a pure function, so that a resumed run decides alike."""
    if machine.compile != "auto":
        return machine.compile == "always"
    return operations >= WORTH.get(device.type, float("inf")) and _can_compile(device)


def keep_compiled(machine: Machine) -> None:
    """What was compiled stays in the cache for the next run."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(machine.cache / "inductor"))


def _can_compile(device: torch.device) -> bool:
    if device.type == "cuda":
        return importlib.util.find_spec("triton") is not None
    return bool(shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++"))
