"""AutoRound: learned rounding (Cheng et al. 2023, "Optimize Weight Rounding via Signed Gradient Descent for the Quantization of
LLMs").

Rounding up or down, and the range of each group, are learned together for the layers of a block, so that the block's outputs
are those of the float model (equations 3 to 6):

    W' = s * clip(round(W / s + V)),      s = s_0 * (1 + m)

V in [-1/2, 1/2] moves a weight across the middle of two codes. Gradients pass through the rounding unchanged, and each step goes
by their sign alone, with a rate that falls to zero: in all, V can reach both of its ends.

Differences from the paper's code: the search begins at the codes of GPTQ in place of those of rounding to nearest (W is then the
weight that GPTQ corrected for the columns before it), and the lowest and the highest weight of a group have one factor.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from groundup.quantize.calibration import BlockCalibration
from groundup.quantize.quantization_grid import QuantizedWeight, split_groups

STEP_TOKENS = 512
"""Tokens of a step, at least: a window, or several short ones."""
MAX_OFFSET, MAX_RANGE_CHANGE = 0.5, 0.1
"""Of V, in codes, and of m."""


@dataclass(frozen=True)
class RoundingStart:
    """Where the search begins.

    Attributes:
        weight: scale and zero of the groups.
        unrounded: (out in), what rounds to the codes of `weight`.
    """

    weight: QuantizedWeight
    unrounded: Tensor


@torch.enable_grad()
def learn_rounding(
    calibration: BlockCalibration,
    targets: Tensor,
    starts: Mapping[str, RoundingStart],
    *,
    steps: int,
    seed: int = 0,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> dict[str, QuantizedWeight]:
    """Rounding and ranges of the layers of a block with which its outputs are nearest to `targets`.

    The result is the start where learning did not improve on it.

    Args:
        targets: outputs of the float block, (N T D).
        starts: by layer name.
        seed: of the order of the windows.
        on_step: is called with each step and its mean relative squared error.
    """
    grids = {name: _LearnedGrid(start) for name, start in starts.items()}
    learned = [tensor for grid in grids.values() for tensor in (grid.offset, grid.change)]
    count = max(1, STEP_TOKENS // targets.shape[1])
    batches = [slice(begin, begin + count) for begin in range(0, len(targets), count)]
    order = torch.randperm(len(batches), generator=torch.Generator().manual_seed(seed)).tolist()
    first = _mean_error(calibration, targets, {name: start.weight for name, start in starts.items()})
    for step in range(steps):
        rows = batches[order[step % len(order)]]
        weights = {name: grid.weight().to(targets.dtype) for name, grid in grids.items()}
        outputs = calibration.run(rows, weights)
        loss = _error(outputs, targets[rows])
        gradients = torch.autograd.grad(loss, learned, allow_unused=True)  # experts without tokens
        rate = 1 - step / steps
        with torch.no_grad():
            for grid, of_offset, of_change in zip(grids.values(), gradients[::2], gradients[1::2], strict=True):
                if of_offset is not None:
                    grid.step(of_offset, of_change, 2 * rate / steps)
        on_step(step, loss.item())
    found = {name: grid.rounded() for name, grid in grids.items()}
    last = _mean_error(calibration, targets, found)
    return found if last < first else {name: start.weight for name, start in starts.items()}


class _LearnedGrid:
    """The learned parts of a layer: `offset`, V (out groups group_width), and `change`, m (out groups)."""

    def __init__(self, start: RoundingStart):
        self.start, scheme = start, start.weight.scheme
        self.groups = split_groups(start.unrounded, scheme)
        self.scale, zero = start.weight.scale.float(), start.weight.zero.float()[:, :, None]
        self.low, self.high = -zero, scheme.max_code - zero
        self.offset = torch.zeros_like(self.groups, requires_grad=True)
        self.change = torch.zeros_like(self.scale, requires_grad=True)

    def weight(self) -> Tensor:
        """The quantized weight, (out in)."""
        scale = _half(self.scale * (1 + self.change))
        rounded = _RoundWithOffset.apply(self.groups, self.offset, scale, self.low, self.high)
        return rounded.flatten(1)[:, : self.start.unrounded.shape[1]]  # type: ignore[union-attr]

    def step(self, of_offset: Tensor, of_change: Tensor, rate: float) -> None:
        """A step against the signs of the gradients."""
        self.offset.sub_(of_offset.sign_(), alpha=rate * MAX_OFFSET).clamp_(-MAX_OFFSET, MAX_OFFSET)
        self.change.sub_(of_change.sign_(), alpha=rate * MAX_RANGE_CHANGE).clamp_(-MAX_RANGE_CHANGE, MAX_RANGE_CHANGE)

    @torch.no_grad()
    def rounded(self) -> QuantizedWeight:
        """The codes and scales."""
        start = self.start.weight
        scale = (self.scale * (1 + self.change)).half()
        codes = (self.groups / scale.float()[:, :, None] + self.offset).round_().clamp_(self.low, self.high) - self.low
        codes = codes.to(torch.uint8).flatten(1)[:, : self.start.unrounded.shape[1]].contiguous()
        return QuantizedWeight(codes, scale, start.zero, start.scheme)


class _RoundWithOffset(torch.autograd.Function):
    """s * clip(round(W / s + V)), with the gradient of s * clip(W / s + V)."""

    @staticmethod
    def forward(ctx: Any, groups: Tensor, offset: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
        scale = scale[:, :, None]
        free = (groups / scale).add_(offset).round_()
        codes = torch.clamp(free, low, high)
        ctx.save_for_backward(groups, scale, codes, free.eq_(codes))
        return codes * scale

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor, None, None]:  # type: ignore[override]
        groups, scale, codes, inside = ctx.saved_tensors
        of_scale = (codes - (groups / scale).mul_(inside)).mul_(grad).sum(2)
        return None, (grad * scale).mul_(inside), of_scale, None, None


class _Half(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.half().float()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad


def _half(x: Tensor) -> Tensor:
    return _Half.apply(x)  # type: ignore[return-value]


@torch.no_grad()
def _mean_error(calibration: BlockCalibration, targets: Tensor, weights: Mapping[str, QuantizedWeight]) -> float:
    """Mean relative error of the block's outputs over all windows."""
    tensors = {name: weight.dequantize().to(targets.dtype) for name, weight in weights.items()}
    total = 0.0
    for row in range(len(targets)):
        rows = slice(row, row + 1)
        outputs = calibration.run(rows, tensors)
        total += _error(outputs, targets[rows]).item()
    return total / len(targets)


def _error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean over tokens of the squared error relative to the target: a few tokens are a hundred times larger than the rest."""
    targets = targets.float()
    energy = targets.square().sum(-1).clamp(min=1e-12)
    return ((outputs.float() - targets).square().sum(-1) / energy).mean()
