"""Mixed precision: bits for each layer, so that the model fits a size and loses least.

The loss rises by about 1/2 sum_ij F_ij (W_ij - Q(W)_ij)^2 when a layer's weight W is rounded to Q(W), where F is the
diagonal of the Fisher information: the mean square of the gradient of one token's loss (Kim et al. 2023, SqueezeLLM, section
3.1; LeCun et al. 1989, Optimal Brain Damage). The rises of layers add up in this approximation, so that the choice is a
knapsack problem, solved along its convex hull: the same price of a byte for all layers (Shoham and Gersho 1988).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.progress import Progress
from groundup.model import Decoder
from groundup.quantize.quantization_grid import QuantizationScheme, round_to_nearest

MAX_WINDOWS = 16
"""Windows of the Fisher information: enough to rank layers."""

HALVINGS = 60
"""Of the interval of the price of a byte, in which the size no longer changes."""

BITS = (2, 3, 4, 5, 6, 8)
"""What a layer can get."""

HEADER_BYTES = 128
"""Of a tensor in a safetensors file, about."""


class Choice(NamedTuple):
    """A scheme for one layer: its size, and by how much the loss is expected to rise (nats per token)."""

    scheme: QuantizationScheme
    bytes: float
    rise: float


def schemes_for_size(
    model: nn.Module,
    layers: Mapping[str, nn.Linear],
    windows: Tensor,
    scheme: QuantizationScheme,
    max_bytes: float,
    progress: Progress | None = None,
) -> dict[str, QuantizationScheme]:
    """The scheme of each layer, `scheme` with other bits, with which the model's file has at most `max_bytes`.

    Args:
        layers: the layers to quantize, by name.
        windows: calibration text, tokens (N T).

    Raises UserError for a size that is too small, and for a model without a next-token distribution.
    """
    if not isinstance(model, Decoder):
        raise UserError(
            f"quantize.size with {type(model).__name__}, expected a decoder: sensitivities are measured by its loss",
            hint="bits in place of size",
        )
    quantized = {id(layer.weight) for layer in layers.values()}
    kept = [parameter for parameter in model.parameters() if id(parameter) not in quantized]
    others = sum(parameter.numel() * parameter.element_size() for parameter in kept)
    others += HEADER_BYTES * (len(kept) + (2 if scheme.symmetric else 3) * len(layers))
    choices = layer_choices(model, layers, windows, [replace(scheme, bits=bits) for bits in BITS], progress)
    return choose_schemes(choices, max_bytes, others)


@torch.enable_grad()
def layer_choices(
    model: Decoder,
    layers: Mapping[str, nn.Linear],
    windows: Tensor,
    schemes: Sequence[QuantizationScheme],
    progress: Progress | None = None,
) -> dict[str, list[Choice]]:
    """What each layer costs with each scheme, by rounding to nearest.

    Memory beside the model: a gradient of each layer, and a sum of squares in float32.

    Args:
        layers: linear layers of the model, by name.
        windows: tokens (N T), of which MAX_WINDOWS are used.
    """
    weights = {name: layer.weight for name, layer in layers.items()}
    squares = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in weights.items()}
    required = {parameter: parameter.requires_grad for parameter in model.parameters()}
    for parameter in required:
        parameter.requires_grad_(False)
    for weight in weights.values():
        weight.requires_grad_(True)
    count = 0
    used = windows[:: max(1, len(windows) // MAX_WINDOWS)][:MAX_WINDOWS]
    with (progress or Progress()).task("sensitivities", total=len(used), unit="windows") as task:
        for window in used:
            logits = model(window[None].to(next(iter(required)).device)).logits[0, :-1].float()
            loss = nn.functional.cross_entropy(logits, window[1:].to(logits.device), reduction="sum")
            # gradients of different tokens are uncorrelated at a minimum: the square of their sum is the sum of squares
            gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)  # experts without tokens
            for name, gradient in zip(weights, gradients, strict=True):
                if gradient is not None:
                    squares[name].addcmul_(gradient.float(), gradient.float())
            count += len(window) - 1
            task.advance()
    for parameter, before in required.items():
        parameter.requires_grad_(before)
    choices = {}
    for name, weight in weights.items():
        original = weight.detach().float()
        choices[name] = [
            Choice(
                scheme,
                scheme.stored_bits(*original.shape) / 8,
                0.5
                * float((squares[name] * (original - round_to_nearest(original, scheme).dequantize()) ** 2).sum())
                / count,
            )
            for scheme in schemes
        ]
    return choices


def choose_schemes(
    choices: Mapping[str, Sequence[Choice]], max_bytes: float, other_bytes: float = 0.0
) -> dict[str, QuantizationScheme]:
    """A scheme for each layer: with `other_bytes` at most `max_bytes`, with the smallest expected rise along the convex hull.

    Raises UserError when even the smallest schemes are larger.
    """
    smallest = other_bytes + sum(min(choice.bytes for choice in of_layer) for of_layer in choices.values())
    if smallest > max_bytes:
        raise UserError(
            f"quantize.size: {max_bytes / 1e6:,.2f} MB, but the model takes {smallest / 1e6:,.2f} MB at the least, of which "
            f"{other_bytes / 1e6:,.2f} MB are not quantized",
            hint="a larger size",
        )
    max_bytes -= other_bytes
    low, high = 0.0, 1.0  # price of a byte, in nats
    while _size(_cheapest(choices, high)) > max_bytes:
        high *= 16
    if _size(_cheapest(choices, low)) <= max_bytes:
        high = low
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if _size(_cheapest(choices, middle)) > max_bytes:
            low = middle
        else:
            high = middle
    chosen = _cheapest(choices, high)
    room = max_bytes - _size(chosen)
    for name in choices:  # what the hull leaves over
        better = [
            each for each in choices[name] if each.rise < chosen[name].rise and each.bytes - chosen[name].bytes <= room
        ]
        if better:
            best = min(better, key=lambda each: each.rise)
            room -= best.bytes - chosen[name].bytes
            chosen[name] = best
    return {name: choice.scheme for name, choice in chosen.items()}


def _cheapest(choices: Mapping[str, Sequence[Choice]], price: float) -> dict[str, Choice]:
    return {
        name: min(of_layer, key=lambda each: (each.rise + price * each.bytes, each.bytes))
        for name, of_layer in choices.items()
    }


def _size(chosen: Mapping[str, Choice]) -> float:
    return sum(choice.bytes for choice in chosen.values())
