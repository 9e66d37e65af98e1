"""AWQ (Lin et al. 2023, "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration").

A few input channels are much larger than the rest, and rounding errors in their weights matter most. Their weights
are scaled up by s before rounding and their inputs down by s: the product is the same, the relative error of the
salient weights is smaller (section 3.2). The scale of a channel is its mean magnitude to a power between 0 and 1,
chosen by grid search (equation 5). The division of the inputs is folded into the preceding norm weight or matrix rows,
so the result is an ordinary model.

Differences from the paper's code: the error is measured at the output of each linear layer instead of the whole
attention or feed-forward, which needs only the inputs' second moment; and weights are not clipped.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from groundup.model.attention import Attention
from groundup.model.block import ParallelBlock, PreNormBlock, SandwichBlock, SharedNormBlock
from groundup.model.feed_forward import GatedFeedForward
from groundup.model.norm import RMSNorm, ZeroCenteredRMSNorm
from groundup.quantize.calibration import InputStats
from groundup.quantize.quantization_grid import QuantizationScheme, round_to_nearest

NUM_POWERS = 20
"""Powers of the grid search: 0, 1/20, ... 19/20."""


@dataclass(frozen=True)
class ScaleGroup:
    """Linear layers with the same input, and the module before them into which their scales are folded."""

    preceding: nn.Module
    layers: tuple[str, ...]


def scale_groups(block: nn.Module) -> list[ScaleGroup]:
    """The scale groups of a block; none for post-norm blocks, whose norms also feed the residual stream.

    The output projection is included only in multi-head attention: with grouped heads a row of the value matrix feeds
    several input channels of the projection, which cannot have separate scales.
    """
    if not isinstance(block, PreNormBlock | SandwichBlock | ParallelBlock | SharedNormBlock):
        return []
    attention, feed_forward = block.attention, block.feed_forward
    gated = isinstance(feed_forward, GatedFeedForward)
    plain = isinstance(getattr(feed_forward, "up_proj", None), nn.Linear)
    # Between the matrices of latent attention are splits and rotations.
    full = isinstance(attention, Attention)
    attention_inputs = tuple(f"attention.{name}" for name in ("q_proj", "k_proj", "v_proj")) if full else ()
    inputs = (("feed_forward.gate_proj",) if gated else ()) + (("feed_forward.up_proj",) if gated or plain else ())
    groups = []
    shared = isinstance(block, SharedNormBlock)
    if full and (inputs or not shared):  # experts have the same input, too
        groups.append(ScaleGroup(block.attention_norm, attention_inputs + (inputs if shared else ())))
    if full and attention.v_proj.out_features == attention.o_proj.in_features:
        groups.append(ScaleGroup(attention.v_proj, ("attention.o_proj",)))
    if inputs and not shared:
        groups.append(ScaleGroup(block.feed_forward_norm, inputs))
    if gated:
        groups.append(ScaleGroup(feed_forward.up_proj, ("feed_forward.down_proj",)))
    return [
        group for group in groups if isinstance(group.preceding, SCALABLE_LAYERS) and group.preceding.weight is not None
    ]


SCALABLE_LAYERS = (nn.Linear, nn.LayerNorm, RMSNorm, ZeroCenteredRMSNorm)


def search_scales(weights: list[Tensor], stats: InputStats, scheme: QuantizationScheme) -> tuple[Tensor, float]:
    """The channel scales (in) with the least output error over weights (out in) with the same input, and their power.

    Power 0 is rounding to nearest without scales.
    """
    best: tuple[float, Tensor, float] | None = None
    for step in range(NUM_POWERS):
        power = step / NUM_POWERS
        scales = channel_scales(stats.mean_abs, power)
        error = 0.0
        for weight in weights:
            difference = weight - round_to_nearest(weight * scales, scheme).dequantize() / scales
            error += ((difference @ stats.hessian) * difference).sum().item()
        if best is None or error < best[0]:
            best = error, scales, power
    assert best is not None
    return best[1], best[2]


def channel_scales(magnitude: Tensor, power: float) -> Tensor:
    """magnitude^power, normalized so that the largest and the smallest scale multiply to 1; (in)."""
    scales = magnitude.clamp(min=1e-4) ** power
    return scales / (scales.max() * scales.min()).sqrt()


@torch.no_grad()
def apply_scales(group: ScaleGroup, layers: dict[str, nn.Linear], scales: Tensor) -> None:
    """Multiply the layers' input channels by `scales` and divide the preceding module's outputs by them."""
    source = group.preceding
    if isinstance(source, ZeroCenteredRMSNorm):
        source.weight.copy_((1 + source.weight.float()) / scales - 1)
    else:
        weight: nn.Parameter = source.weight  # type: ignore[assignment]
        weight.div_(scales[:, None] if isinstance(source, nn.Linear) else scales)
        if isinstance(bias := getattr(source, "bias", None), Tensor):
            bias.div_(scales)
    for name in group.layers:
        layers[name].weight.mul_(scales)
