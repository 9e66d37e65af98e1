"""Whether to compile, and what: it makes every step faster, after a while in which nothing is learnt.

Blocks are compiled, one by one: they are alike, so that one compilation serves all, however deep the model is.
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
"""Operations of a run above which compiling is taken to pay. CPU: 43 s at a gain of 5% are won back after a quarter of an
hour of two cores with matrix units (lab book, 30M weights; the whole model, where blocks take 25 s). CUDA: half a minute of
an H200, whose blocks take 7 s to compile (2026-11-26; what eager steps would have taken is an estimate)."""


def should_compile(machine: Machine, device: torch.device, flops: float) -> bool:
    """Whether a run of so many operations is to be compiled; a pure function, so that a resumed run decides alike."""
    if machine.compile != "auto":
        return machine.compile == "always"
    return flops >= MIN_FLOPS_TO_COMPILE.get(device.type, float("inf")) and _can_compile(device)


def enable_compile_cache(machine: Machine) -> None:
    """What was compiled stays in the cache for the next run."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(machine.cache_dir / "inductor"))


def _can_compile(device: torch.device) -> bool:
    if device.type == "cuda":
        return importlib.util.find_spec("triton") is not None
    return bool(shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++"))


def compile_blocks(model: nn.Module) -> nn.Module:
    """A model that shares all with `model`, but whose blocks, the members of its module lists, are compiled, and its loss.

    The steps of a training go through it. Whatever else looks at the model goes through `model` itself, because every
    other form of a pass, such as one without gradients, would be compiled anew.
    """
    twin = copy.copy(model)
    twin._modules = {name: _compile_child(part) for name, part in model._modules.items()}
    return twin


def _compile_child(part: Any) -> Any:
    if isinstance(part, nn.ModuleList):
        return nn.ModuleList(map(CompiledBlock, part))
    if isinstance(part, Head):
        head = copy.copy(part)
        head.compiled = True
        return head
    inside = part.modules() if isinstance(part, nn.Module) else ()
    return (
        compile_blocks(part) if any(isinstance(module, nn.ModuleList | Head) for module in inside) else part
    )


class CompiledBlock(nn.Module):
    """A block, compiled; but as it was while hooks watch it, for which it would be compiled anew each time."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.block, self.compiled = block, torch.compile(block)

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        return (self.block if self.block._forward_hooks else self.compiled)(*inputs, **named)
