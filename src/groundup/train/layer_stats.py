"""Gradient norm and activation RMS of each layer, recorded every N steps."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from groundup.train.jsonl_log import JsonlLog


class LayerStats:
    """Records with `gradient`, the norm of each weight's gradient, and `activation`, the RMS of each block's output.

    Args:
        module: its blocks are the elements of its module lists.
        every: steps between two records; None: never.
    """

    def __init__(self, module: nn.Module, every: int | None, log: JsonlLog):
        self.module, self.every, self.log = module, every, log

    @contextmanager
    def record(self, step: int) -> Iterator[None]:
        """Context of a forward and backward pass; appends a record at its end if one is due."""
        if self.every is None or step % self.every:
            yield
            return
        squares: dict[str, list[Tensor]] = {}

        def make_hook(name: str) -> Any:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                if isinstance(output, Tensor):
                    squares.setdefault(name, []).append(output.detach().float().square().mean())

            return hook

        handles = [block.register_forward_hook(make_hook(name)) for name, block in _blocks(self.module)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        gradients = {
            name: weight.grad.float().norm().item()
            for name, weight in self.module.named_parameters()
            if weight.grad is not None
        }
        means = {name: torch.stack(values).mean().sqrt().item() for name, values in squares.items()}
        self.log.append({"step": step, "gradient": gradients, "activation": means})


def _blocks(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """(name, module) of the elements of all module lists."""
    return [
        (f"{name}.{index}", block)
        for name, child in module.named_modules()
        if isinstance(child, nn.ModuleList)
        for index, block in enumerate(child)
    ]
