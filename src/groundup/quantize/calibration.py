"""What a layer's inputs look like, one block after the other, each seeing what the quantized blocks before it
give.

The whole model is never run at once: the calibration windows go through block i, are kept, and become the
inputs of block i + 1. So a model needs the memory of its weights, of the windows' hidden states, and of one
block's work.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from groundup.artifacts.errors import UserError

BATCH_TOKENS = 8_192
"""Tokens that go through a block at once."""


class InputStats:
    """What is kept of a layer's inputs x, over all rows seen.

    Attributes:
        hessian: float32 (in in), the mean of 2 x x^T: the second derivative of the squared output error.
        magnitude: float32 (in), the mean of |x|.
        rows: input vectors seen.
    """

    def __init__(self, width: int, device: torch.device | str = "cpu"):
        self.hessian = torch.zeros(width, width, device=device)
        self.mean_abs = torch.zeros(width, device=device)
        self.num_inputs = 0

    def add(self, inputs: Tensor) -> None:
        """Take in the inputs of one batch, (... in)."""
        inputs = inputs.detach().reshape(-1, inputs.shape[-1]).float()
        total = self.num_inputs + inputs.shape[0]
        self.hessian.mul_(self.num_inputs / total).addmm_(inputs.T, inputs, alpha=2 / total)
        self.mean_abs.mul_(self.num_inputs / total).add_(inputs.abs().sum(0) / total)
        self.num_inputs = total


def output_error(weight: Tensor, approximation: Tensor, hessian: Tensor) -> float:
    """||(W - W')X||^2 / ||W X||^2: how much of a layer's output is error, from the inputs' second moment."""
    difference = (weight - approximation).double()
    weight, hessian = weight.double(), hessian.double()
    wrong = ((difference @ hessian) * difference).sum()
    return (wrong / ((weight @ hessian) * weight).sum().clamp(min=1e-30)).item()


def linear_layers(block: nn.Module) -> dict[str, nn.Linear]:
    """The plain linear layers inside a block, by name. A mixture's router is none: it decides, and stays
    exact."""
    return {name: module for name, module in block.named_modules() if type(module) is nn.Linear}


@dataclass
class BlockCalibration:
    """One block, and the calibration windows as they arrive at it.

    Attributes:
        name: of the block in the model.
        windows: (N T D), in the model's dtype.
        rest: what the block is given beside its input: the same for every window, since all have one length.
    """

    name: str
    block: nn.Module
    windows: Tensor
    extra_inputs: tuple[tuple[Any, ...], dict[str, Any]]

    def outputs(self) -> Tensor:
        """What the block makes of the windows, (N T D)."""
        step = max(1, BATCH_TOKENS // self.windows.shape[1])
        args, named = self.extra_inputs
        return torch.cat([self.block(part, *args, **named) for part in self.windows.split(step)])

    def input_stats(self, names: list[str]) -> dict[str, InputStats]:
        """The inputs of some of the block's linear layers, from one pass over the windows."""
        layers = linear_layers(self.block)
        found = {name: InputStats(layers[name].in_features, self.windows.device) for name in names}
        with _record_inputs(
            {name: layers[name] for name in names}, lambda name, inputs: found[name].add(inputs)
        ):
            self.outputs()
        return found

    def layers_by_input(self) -> list[list[str]]:
        """The block's linear layers in the order they are used; those that share their input stand
        together.
        """
        order: list[tuple[int, list[str]]] = []
        alive = []  # an id is only unique among tensors that still exist

        def note(name: str, inputs: Tensor) -> None:
            alive.append(inputs)
            if order and order[-1][0] == id(inputs):
                order[-1][1].append(name)
            else:
                order.append((id(inputs), [name]))

        with _record_inputs(linear_layers(self.block), note):
            args, named = self.extra_inputs
            self.block(self.windows[:1], *args, **named)
        return [names for _, names in order]


def iter_blocks(model: nn.Module, tokens: Tensor) -> Iterator[BlockCalibration]:
    """Walk through the blocks of `model` with windows of tokens (N T), all of one length.

    Between two stations the caller may change the block: the next station sees what it then gives.
    Raises UserError for a model that is not one row of blocks.
    """
    if not isinstance(getattr(model, "blocks", None), nn.ModuleList):
        raise UserError(
            f"a model of kind {type(model).__name__} cannot be walked block by block",
            hint="--method rtn needs no look at text",
        )
    with torch.no_grad():
        calls = _block_calls(model, tokens[:1])
        windows = _first_block_inputs(model, tokens)
        for name, block, rest in calls:
            station = BlockCalibration(name, block, windows, rest)
            yield station
            windows = station.outputs()


def _block_calls(model: nn.Module, tokens: Tensor) -> list[tuple[str, nn.Module, Any]]:
    """Each block, and what the model gives it beside its input."""
    calls = []

    def record(name: str, block: nn.Module, args: tuple, named: dict) -> None:
        calls.append((name, block, (args[1:], named)))

    blocks: nn.ModuleList = model.blocks  # type: ignore[assignment]
    handles = [
        block.register_forward_pre_hook(
            lambda module, args, named, name=f"blocks.{index}": record(name, module, args, named),
            with_kwargs=True,
        )
        for index, block in enumerate(blocks)
    ]
    try:
        model(tokens)
    finally:
        for handle in handles:
            handle.remove()
    return calls


class _StopForwardError(Exception):
    """No error: the first block was reached, and there is no need to go on."""


def _first_block_inputs(model: nn.Module, tokens: Tensor) -> Tensor:
    """What arrives at the first block, (N T D)."""
    found: list[Tensor] = []

    def stop(block: nn.Module, args: tuple) -> None:
        found.append(args[0])
        raise _StopForwardError

    first: nn.Module = model.blocks[0]  # type: ignore[index,assignment]
    handle = first.register_forward_pre_hook(stop)
    try:
        for part in tokens.split(max(1, BATCH_TOKENS // tokens.shape[1])):
            try:
                model(part)
            except _StopForwardError:
                continue
    finally:
        handle.remove()
    return torch.cat(found)


@contextmanager
def _record_inputs(layers: dict[str, nn.Linear], callback: Any) -> Iterator[None]:
    """Call see(name, input) whenever one of `layers` is used."""
    handles = [
        layer.register_forward_pre_hook(lambda module, args, name=name: callback(name, args[0]))
        for name, layer in layers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
