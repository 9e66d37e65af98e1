"""torch.compile for training: whether to compile, and which modules.

Blocks are compiled one by one: they are alike, so one compilation serves any depth.
"""

import copy
import importlib.util
import os
import shutil
from typing import Any, Literal

import torch
from torch import Tensor, nn

from groundup.artifacts.machine import Machine
from groundup.model.head import Head

CompileMode = Literal["auto", "always", "never"]

MIN_FLOPS_TO_COMPILE = {"cpu": 5e14, "cuda": 1e16}
"""FLOPs of a run above which compilation pays. CPU: 43 s at a gain of 5%, regained after a quarter of an hour of two cores
with matrix units (lab book, 30M weights, the whole model; blocks take 25 s). CUDA: half a minute of an H200, whose blocks
take 7 s to compile (2026-11-26; eager time estimated).
"""


def should_compile(machine: Machine, device: torch.device, flops: float) -> bool:
    """Whether to compile a run of so many FLOPs; pure, so a resumed run decides the same."""
    if machine.compile != "auto":
        return machine.compile == "always"
    return flops >= MIN_FLOPS_TO_COMPILE.get(device.type, float("inf")) and _can_compile(device)


def enable_compile_cache(machine: Machine) -> None:
    """Keep compiled kernels in the cache folder for later runs."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(machine.cache_dir / "inductor"))


def _can_compile(device: torch.device) -> bool:
    if device.type == "cuda":
        return importlib.util.find_spec("triton") is not None
    return bool(shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++"))


def compile_blocks(model: nn.Module) -> nn.Module:
    """A shallow copy of `model` with compiled blocks (the elements of its module lists) and a compiled loss.

    For training steps only. Other passes, for example without gradients, would compile again and use `model` itself.
    """
    compiled = copy.copy(model)
    compiled._modules = {name: _compile_child(child) for name, child in model._modules.items()}
    return compiled


def _compile_child(child: Any) -> Any:
    if isinstance(child, nn.ModuleList):
        return nn.ModuleList(map(CompiledBlock, child))
    if isinstance(child, Head):
        head = copy.copy(child)
        head.compiled = True
        return head
    modules = child.modules() if isinstance(child, nn.Module) else ()
    return compile_blocks(child) if any(isinstance(m, nn.ModuleList | Head) for m in modules) else child


class CompiledBlock(nn.Module):
    """A compiled block; eager while it has forward hooks, which would cause recompilation."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.block, self.compiled = block, torch.compile(block)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return (self.block if self.block._forward_hooks else self.compiled)(*args, **kwargs)
