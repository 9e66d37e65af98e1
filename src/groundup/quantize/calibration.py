"""Calibration: statistics of layer inputs, block by block, where each block reads the quantized blocks' outputs.

The hidden states of all calibration windows after block i become the inputs of block i + 1, so memory holds the
weights, the hidden states of the windows, and the activations of one block.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from groundup.artifacts.errors import UserError

BATCH_TOKENS = 8_192
"""Tokens of one forward pass through a block."""


class InputStats:
    """Running moments of a layer's input vectors x.

    Attributes:
        hessian: float32 (in in), the mean of 2 x x^T: the second derivative of the squared output error.
        mean_abs: float32 (in), the mean of |x|.
        num_inputs: input vectors so far.
    """

    def __init__(self, width: int, device: torch.device | str = "cpu"):
        self.hessian = torch.zeros(width, width, device=device)
        self.mean_abs = torch.zeros(width, device=device)
        self.num_inputs = 0

    def add(self, inputs: Tensor) -> None:
        """Add the inputs of one batch, (... in)."""
        inputs = inputs.detach().reshape(-1, inputs.shape[-1]).float()
        total = self.num_inputs + inputs.shape[0]
        self.hessian.mul_(self.num_inputs / total).addmm_(inputs.T, inputs, alpha=2 / total)
        self.mean_abs.mul_(self.num_inputs / total).add_(inputs.abs().sum(0) / total)
        self.num_inputs = total


def output_error(weight: Tensor, approximation: Tensor, hessian: Tensor) -> float:
    """||(W - W')X||^2 / ||W X||^2: relative output error of a layer, from the inputs' second moment."""
    difference = (weight - approximation).double()
    weight, hessian = weight.double(), hessian.double()
    error_energy = ((difference @ hessian) * difference).sum()
    return (error_energy / ((weight @ hessian) * weight).sum().clamp(min=1e-30)).item()


def linear_layers(block: nn.Module) -> dict[str, nn.Linear]:
    """The `nn.Linear` layers inside a block, by name. The router of a mixture of experts is another class, and excluded."""
    return {name: module for name, module in block.named_modules() if type(module) is nn.Linear}


@dataclass
class BlockCalibration:
    """One block and its calibration inputs.

    Attributes:
        name: of the block in the model.
        windows: hidden states before the block, (N T D), in the model's dtype.
        extra_inputs: the block's other positional and keyword arguments, the same for all windows.
    """

    name: str
    block: nn.Module
    windows: Tensor
    extra_inputs: tuple[tuple[Any, ...], dict[str, Any]]

    def outputs(self) -> Tensor:
        """The block's outputs for the windows, (N T D)."""
        step = max(1, BATCH_TOKENS // self.windows.shape[1])
        args, named = self.extra_inputs
        return torch.cat([self.block(part, *args, **named) for part in self.windows.split(step)])

    def input_stats(self, names: list[str]) -> dict[str, InputStats]:
        """Input statistics of the named linear layers, from one pass over the windows."""
        layers = linear_layers(self.block)
        found = {name: InputStats(layers[name].in_features, self.windows.device) for name in names}
        with _record_inputs({name: layers[name] for name in names}, lambda name, inputs: found[name].add(inputs)):
            self.outputs()
        return found

    def layers_by_input(self) -> list[list[str]]:
        """The block's linear layers in order of use, grouped by input tensor."""
        order: list[tuple[int, list[str]]] = []
        references = []  # keeps the inputs alive, so that their ids stay unique

        def record(name: str, inputs: Tensor) -> None:
            references.append(inputs)
            if order and order[-1][0] == id(inputs):
                order[-1][1].append(name)
            else:
                order.append((id(inputs), [name]))

        with _record_inputs(linear_layers(self.block), record):
            args, named = self.extra_inputs
            self.block(self.windows[:1], *args, **named)
        return [names for _, names in order]


def iter_blocks(model: nn.Module, tokens: Tensor) -> Iterator[BlockCalibration]:
    """Yield each block of `model` with its calibration inputs for windows of tokens (N T).

    The caller may change a block before it takes the next one, whose inputs are the outputs of the changed block.
    Raises UserError for a model without a single list of blocks.
    """
    if not isinstance(getattr(model, "blocks", None), nn.ModuleList):
        raise UserError(
            f"{type(model).__name__} has no single list of blocks to calibrate, expected a decoder or an encoder",
            hint="--method rtn needs no calibration",
        )
    with torch.no_grad():
        calls = _block_calls(model, tokens[:1])
        windows = _first_block_inputs(model, tokens)
        for name, block, extra_inputs in calls:
            calibration = BlockCalibration(name, block, windows, extra_inputs)
            yield calibration
            windows = calibration.outputs()


def _block_calls(model: nn.Module, tokens: Tensor) -> list[tuple[str, nn.Module, Any]]:
    """Name, module and arguments beside the hidden states of each block's call."""
    calls = []

    def record(name: str, block: nn.Module, args: tuple, named: dict) -> None:
        calls.append((name, block, (args[1:], named)))

    blocks: nn.ModuleList = model.blocks  # type: ignore[assignment]
    handles = [
        block.register_forward_pre_hook(
            lambda module, args, named, name=f"blocks.{index}": record(name, module, args, named), with_kwargs=True
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
    """Ends a forward pass at the first block."""


def _first_block_inputs(model: nn.Module, tokens: Tensor) -> Tensor:
    """Hidden states before the first block, (N T D)."""
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
    """Call callback(name, input) at each forward pass of one of `layers`."""
    handles = [
        layer.register_forward_pre_hook(lambda module, args, name=name: callback(name, args[0]))
        for name, layer in layers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
