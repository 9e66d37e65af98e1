"""A look into the model while it learns: how large are the gradients and the activations of each layer?"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from groundup.train.jsonl_log import JsonlLog


class LayerStats:
    """Every so many steps a record: `gradient`, the norm of each weight's, and `activation`, each block's RMS.

    Args:
        module: its blocks are the members of its module lists.
        every: steps between two records; None: never.
    """

    def __init__(self, module: nn.Module, every: int | None, log: JsonlLog):
        self.module, self.every, self.log = module, every, log

    @contextmanager
    def record(self, step: int) -> Iterator[None]:
        """Watch what the block computes, forward and backward; a record when it ends, where one is due."""
        if self.every is None or step % self.every:
            yield
            return
        squares: dict[str, list[Tensor]] = {}

        def keep(name: str) -> Any:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                if isinstance(output, Tensor):
                    squares.setdefault(name, []).append(output.detach().float().square().mean())

            return hook

        handles = [block.register_forward_hook(keep(name)) for name, block in _blocks(self.module)]
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
    """The members of the module lists: the blocks, in the order in which they stand."""
    return [
        (f"{name}.{number}", block)
        for name, part in module.named_modules()
        if isinstance(part, nn.ModuleList)
        for number, block in enumerate(part)
    ]
