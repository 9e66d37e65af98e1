"""Quantization of a whole model: replace the linear layers of its blocks by quantized ones.

Embeddings, norms and the output head are not quantized: they are few in a large model and the most sensitive to
rounding.
"""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.progress import Progress
from groundup.plan.stage_support import divisible_group_size
from groundup.quantize.calibration import BlockCalibration, iter_blocks, linear_layers, output_error
from groundup.quantize.layers.quantized_linear import QuantizedLinear, quantized_layers
from groundup.quantize.methods.awq import apply_scales, scale_groups, search_scales
from groundup.quantize.methods.gptq import gptq
from groundup.quantize.quantization_grid import QuantizationScheme, QuantizedWeight, round_to_nearest


@dataclass(frozen=True)
class QuantizationSettings:
    """Method, scheme and method options: the knobs of [quantize] that methods read."""

    method: str
    scheme: QuantizationScheme
    damp_percent: float = 0.01
    act_order: bool = False


@dataclass(frozen=True)
class LayerQuantizationError:
    """Relative squared output error of a layer on the calibration windows.

    Attributes:
        error: of the chosen method.
        rtn_error: of rounding to nearest at the same scheme, on the same inputs.
    """

    layer: str
    error: float
    rtn_error: float


class QuantizedLayer(NamedTuple):
    """A layer's name in its block and new weight; `effective` is the weight's effect in place of `original` (out in)."""

    name: str
    weight: QuantizedWeight
    original: Tensor
    effective: Tensor
    hessian: Tensor


def quantize_with_gptq(calibration: BlockCalibration, settings: QuantizationSettings) -> Iterator[QuantizedLayer]:
    """GPTQ for the layers in order of use; the inputs of each come from the quantized layers before it."""
    layers = linear_layers(calibration.block)
    for names in calibration.layers_by_input():
        stats = calibration.input_stats(names)
        for name in names:
            original, hessian = _float_weight(layers[name]), stats[name].hessian
            damp_percent, act_order = settings.damp_percent, settings.act_order
            weight = gptq(original, hessian, settings.scheme, damp_percent=damp_percent, act_order=act_order)
            yield QuantizedLayer(name, weight, original, weight.dequantize(), hessian)


def quantize_with_awq(calibration: BlockCalibration, settings: QuantizationSettings) -> Iterator[QuantizedLayer]:
    """AWQ scales for all layers from the inputs of the float block, then rounding to nearest."""
    layers = linear_layers(calibration.block)
    stats = calibration.input_stats(list(layers))
    originals = {name: _float_weight(layer) for name, layer in layers.items()}
    for group in scale_groups(calibration.block):
        weights = [_float_weight(layers[name]) for name in group.layers]
        scales, _ = search_scales(weights, stats[group.layers[0]], settings.scheme)
        apply_scales(group, layers, scales)
    for name, layer in layers.items():
        scaled = _float_weight(layer)
        weight = round_to_nearest(scaled, settings.scheme)
        # weight by weight, the scales of rows and columns cancel: what remains is the effect of rounding
        effective = originals[name] * torch.where(scaled == 0, 1.0, weight.dequantize() / scaled)
        yield QuantizedLayer(name, weight, originals[name], effective, stats[name].hessian)


def quantize_with_rtn(calibration: BlockCalibration, settings: QuantizationSettings) -> Iterator[QuantizedLayer]:
    """Rounding to nearest, with its output errors."""
    layers = linear_layers(calibration.block)
    stats = calibration.input_stats(list(layers))
    for name, layer in layers.items():
        original = _float_weight(layer)
        weight = round_to_nearest(original, settings.scheme)
        yield QuantizedLayer(name, weight, original, weight.dequantize(), stats[name].hessian)


def _float_weight(layer: nn.Linear) -> Tensor:
    return layer.weight.detach().float().clone()


METHODS: dict[str, Callable[[BlockCalibration, QuantizationSettings], Iterator[QuantizedLayer]]] = {
    "rtn": quantize_with_rtn,
    "gptq": quantize_with_gptq,
    "awq": quantize_with_awq,
}


def quantize_model(
    model: nn.Module, settings: QuantizationSettings, windows: Tensor | None = None, progress: Progress | None = None
) -> list[LayerQuantizationError]:
    """Quantize the linear layers of the model's blocks in place. Returns the errors of the layers, in order.

    Args:
        windows: calibration text, (N T) token ids; optional for rtn, which then returns no errors.

    Raises UserError when the group size does not divide a layer's input width, and for gptq or awq without windows.
    """
    layers, scheme = quantizable_layers(model), settings.scheme
    if (adapted := adapt_scheme(model, scheme)) != scheme:
        raise UserError(
            f"quantize.group_size = {scheme.group_size} does not divide every layer's input width",
            hint=f"use {adapted.group_size}",
        )
    if windows is None and settings.method != "rtn":
        raise UserError(
            f"quantize.method = {settings.method} needs calibration text", hint="give calibration text, or use rtn"
        )
    weights: dict[str, QuantizedWeight] = {}
    errors: list[LayerQuantizationError] = []
    if windows is None:
        weights = {name: round_to_nearest(layer.weight.detach(), scheme) for name, layer in layers.items()}
    else:
        windows = windows.to(next(model.parameters()).device)
        title = f"quantizing ({settings.method})"
        with (progress or Progress()).task(title, total=len(layers), unit="layers") as task:
            for calibration in iter_blocks(model, windows):
                for layer in METHODS[settings.method](calibration, settings):
                    path, original, hessian = (f"{calibration.name}.{layer.name}", layer.original, layer.hessian)
                    nearest = round_to_nearest(original, scheme).dequantize()
                    error = output_error(original, layer.effective, hessian)
                    rtn_error = output_error(original, nearest, hessian)
                    errors.append(LayerQuantizationError(path, error, rtn_error))
                    weights[path] = layer.weight
                    # before the next layer of the block is calibrated
                    layers[path].weight.data.copy_(layer.weight.dequantize())
                    task.advance()
    quantized = {name: QuantizedLinear.from_weight(weights[name], layer.bias) for name, layer in layers.items()}
    for name, layer in quantized.items():
        model.set_submodule(name, layer)
    return errors


def adapt_scheme(model: nn.Module, scheme: QuantizationScheme) -> QuantizationScheme:
    """`scheme` with its group size halved until it divides every layer's input width.

    Raises UserError when no size does, and for a model without linear layers in its blocks.
    """
    layers = quantizable_layers(model)
    size = divisible_group_size(scheme.group_size, {name: layer.in_features for name, layer in layers.items()})
    return dataclasses.replace(scheme, group_size=size)


def quantizable_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers inside the model's blocks, by name. Raises UserError when there are none."""
    layers = {name: layer for name, layer in linear_layers(model).items() if ".blocks." in f".{name}"}
    if not layers:
        raise UserError("the model has no float linear layers in its blocks", hint="is it quantized already?")
    return layers


def dequantize_model(model: nn.Module) -> nn.Module:
    """Replace quantized layers by `nn.Linear` layers with the same values, in place. Returns the model."""
    for name, layer in quantized_layers(model).items():
        model.set_submodule(name, layer.to_linear())
    return model
