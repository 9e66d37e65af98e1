"""Calibration: statistics of layer inputs, block by block, where each block reads the quantized blocks' outputs.

The hidden states of all calibration windows after block i become the inputs of block i + 1, so memory holds the
weights, the hidden states of the windows, and the activations of one block.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
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
        return torch.cat([self.block(batch, *args, **named) for batch in self.windows.split(step)])

    def input_stats(self, names: list[str]) -> dict[str, InputStats]:
        """Input statistics of the named linear layers, from one pass over the windows."""
        layers = linear_layers(self.block)
        stats = {name: InputStats(layers[name].in_features, self.windows.device) for name in names}
        with _pre_hooks({name: layers[name] for name in names}, lambda name, args, _: stats[name].add(args[0])):
            self.outputs()
        return stats

    def layers_by_input(self) -> list[list[str]]:
        """The block's linear layers in order of use, grouped by input tensor."""
        order: list[tuple[Tensor, list[str]]] = []

        def record(name: str, args: tuple, _: dict) -> None:
            if order and order[-1][0] is args[0]:
                order[-1][1].append(name)
            else:
                order.append((args[0], [name]))

        with _pre_hooks(linear_layers(self.block), record):
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
    blocks = {f"blocks.{index}": block for index, block in enumerate(model.blocks)}  # type: ignore[arg-type]
    calls = []
    with _pre_hooks(blocks, lambda name, args, named: calls.append((name, blocks[name], (args[1:], named)))):
        model(tokens)
    return calls


class _StopForwardError(Exception):
    """Ends a forward pass at the first block."""


def _first_block_inputs(model: nn.Module, tokens: Tensor) -> Tensor:
    """Hidden states before the first block, (N T D)."""
    hidden_states: list[Tensor] = []

    def stop(name: str, args: tuple, _: dict) -> None:
        hidden_states.append(args[0])
        raise _StopForwardError

    with _pre_hooks({"first": model.blocks[0]}, stop):  # type: ignore[index,dict-item]
        for batch in tokens.split(max(1, BATCH_TOKENS // tokens.shape[1])):
            with suppress(_StopForwardError):
                model(batch)
    return torch.cat(hidden_states)


@contextmanager
def _pre_hooks(
    modules: Mapping[str, nn.Module], callback: Callable[[str, tuple[Any, ...], dict[str, Any]], None]
) -> Iterator[None]:
    """Call callback(name, args, kwargs) before each forward pass of one of `modules`."""
    handles = [
        module.register_forward_pre_hook(
            lambda module, args, named, name=name: callback(name, args, named), with_kwargs=True
        )
        for name, module in modules.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
