"""AWQ (Lin et al. 2023, "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration").

A few input channels are much larger than the rest, and rounding errors in their weights matter most. Their weights
are scaled up by s before rounding and their inputs down by s: the product is the same, the relative error of the
salient weights is smaller (section 3.2). The scale of a channel is its mean magnitude to a power between 0 and 1,
chosen by grid search (equation 5). The division of the inputs is folded into the preceding norm weight or matrix rows,
so the result is an ordinary model.

Differences from the paper's code: the error is measured at the output of each linear layer instead of the whole
attention or feed-forward, which needs only the inputs' second moment; and weights are clipped to the range of each group with
the least rounding error weighted by the inputs' mean squares (`find_params`), instead of a search on sampled outputs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from groundup.model.attention import Attention
from groundup.model.block import ParallelBlock, PreNormBlock, SandwichBlock, SharedNormBlock
from groundup.model.feed_forward import gate_by_activation
from groundup.model.moe import MixtureOfExperts, SharedExpertGate
from groundup.model.norm import RMSNorm, ZeroCenteredRMSNorm
from groundup.quantize.calibration import InputStats
from groundup.quantize.layers.quantized_experts import QuantizedExperts
from groundup.quantize.quantization_grid import QuantizationScheme, round_to_nearest

NUM_POWERS = 20
"""Powers of the grid search: 0, 1/20, ... 19/20."""


@dataclass(frozen=True)
class ScaleGroup:
    """Linear layers with the same input, and the module before them into which their scales are folded.

    Attributes:
        routers: layers with the same input that are not quantized: a router, the gate of shared experts.
        heads: (G, H / G, K): each of G value heads feeds H / G heads of the layers' input, with K channels; default: one each.
    """

    preceding: nn.Module
    layers: tuple[str, ...]
    routers: tuple[nn.Linear, ...] = ()
    heads: tuple[int, int, int] | None = None

    def pool(self, scales: Tensor) -> Tensor:
        """Scales of input channels (in), their geometric mean where one output of the preceding module feeds several."""
        if self.heads is None:
            return scales
        return scales.view(self.heads).log().mean(1, keepdim=True).exp().expand(self.heads).flatten()

    def of_outputs(self, scales: Tensor) -> Tensor:
        """The scales of the preceding module's outputs."""
        return scales if self.heads is None else scales.view(self.heads)[:, 0].flatten()


def scale_groups(block: nn.Module) -> list[ScaleGroup]:
    """The scale groups of a block, its experts split; none for post-norm blocks, whose norms also feed the residual stream.

    With grouped heads a row of the value matrix feeds several input channels of the output projection, which share a scale.
    """
    if not isinstance(block, PreNormBlock | SandwichBlock | ParallelBlock | SharedNormBlock):
        return []
    attention = block.attention
    # Between the matrices of latent attention are splits and rotations.
    full = isinstance(attention, Attention)
    reading = ("q_proj", "k_proj", "v_proj", "gate_proj")
    attention_inputs = tuple(
        f"attention.{name}" for name in reading if full and getattr(attention, name, None) is not None
    )
    inputs, routers, inside = _feed_forward_groups(block.feed_forward)
    groups = []
    shared = isinstance(block, SharedNormBlock)
    if full and (inputs or not shared):
        groups.append(
            ScaleGroup(block.attention_norm, attention_inputs + (inputs if shared else ()), routers if shared else ())
        )
    if full:
        groups.append(_output_group(attention))
    if inputs and not shared:
        groups.append(ScaleGroup(block.feed_forward_norm, inputs, routers))
    return [
        group
        for group in [*groups, *inside]
        if isinstance(group.preceding, SCALABLE_LAYERS) and group.preceding.weight is not None
    ]


def _output_group(attention: Attention) -> ScaleGroup:
    values, inputs, channels = attention.v_proj.out_features, attention.o_proj.in_features, attention.head_dim
    heads = None if values == inputs else (values // channels, inputs // values, channels)
    return ScaleGroup(attention.v_proj, ("attention.o_proj",), heads=heads)


def _feed_forward_groups(module: nn.Module) -> tuple[tuple[str, ...], tuple[nn.Linear, ...], list[ScaleGroup]]:
    """Layers that read the feed-forward's input, quantized or not, and the groups inside."""
    parts: list[tuple[str, nn.Module]] = [("feed_forward", module)]
    routers: list[nn.Linear] = []
    if isinstance(module, MixtureOfExperts):
        parts = [(f"feed_forward.{name}", getattr(module, name)) for name in ("experts", "shared_experts")]
        routers = [module.router, *(each for each in module.modules() if isinstance(each, SharedExpertGate))]
    inputs: list[str] = []
    inside: list[ScaleGroup] = []
    for path, part in parts:
        count = len(part.gate_proj) if isinstance(part, QuantizedExperts) else None  # type: ignore[arg-type]
        for number in [""] if count is None else [f".{index}" for index in range(count)]:
            layers = {name: _layer(part, f"{name}_proj{number}") for name in ("gate", "up", "down")}
            inputs += [f"{path}.{name}_proj{number}" for name in ("gate", "up") if layers[name] is not None]
            gating = getattr(part, "gating", None)
            if layers["gate"] is not None and getattr(gating, "func", None) is gate_by_activation:
                assert layers["up"] is not None  # its outputs are factors of the gating
                inside.append(ScaleGroup(layers["up"], (f"{path}.down_proj{number}",)))
    return tuple(inputs), tuple(routers), inside


def _layer(module: nn.Module, path: str) -> nn.Linear | None:
    found: Any = module
    for name in path.split("."):
        found = getattr(found, name, None) if not name.isdigit() else found[int(name)]
    return found if isinstance(found, nn.Linear) else None


SCALABLE_LAYERS = (nn.Linear, nn.LayerNorm, RMSNorm, ZeroCenteredRMSNorm)


def search_scales(
    weights: list[Tensor],
    stats: InputStats,
    scheme: QuantizationScheme,
    pool: Callable[[Tensor], Tensor] = lambda scales: scales,
) -> tuple[Tensor, float]:
    """The channel scales (in) with the least output error over weights (out in) with the same input, and their power.

    Power 0 is rounding to nearest without scales. `pool`: as in ScaleGroup.
    """
    best: tuple[float, Tensor, float] | None = None
    for step in range(NUM_POWERS):
        power = step / NUM_POWERS
        scales = pool(channel_scales(stats.mean_abs, power))
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
def apply_scales(group: ScaleGroup, layers: dict[str, nn.Linear], scales: Tensor) -> Tensor:
    """Multiply the layers' input channels by `scales` and divide the preceding module's outputs by them.

    Returns the scales that were applied: a norm of another dtype than float32 is divided by what its rounded weights make of
    `scales`, so that the products are those of before.
    """
    source = group.preceding
    weight: nn.Parameter = source.weight  # type: ignore[assignment]
    offset = 1 if isinstance(source, ZeroCenteredRMSNorm) else 0
    if not isinstance(source, nn.Linear):
        before = weight.float() + offset
        weight.copy_(before / scales - offset)
        after = weight.float() + offset
        scales = torch.where((before != 0) & (after != 0), before / after, scales)
    divisors = group.of_outputs(scales)
    if isinstance(source, nn.Linear):
        weight.div_(divisors[:, None])
    if isinstance(bias := getattr(source, "bias", None), Tensor):
        bias.copy_(bias.float() / divisors)
    for layer in (*(layers[name] for name in group.layers), *group.routers):
        layer.weight.copy_(layer.weight.float() * scales)
    return scales
