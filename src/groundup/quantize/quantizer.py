"""A model in, the same model with small weights out: the linear layers of its blocks are replaced from
outside.

Embeddings, norms and the head stay: they are a small part of a large model, and the part where rounding costs
most.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.progress import Progress, ProgressTask
from groundup.quantize.awq import apply_scales, scale_groups, search_scales
from groundup.quantize.calibration import BlockCalibration, iter_blocks, linear_layers, output_error
from groundup.quantize.gptq import gptq
from groundup.quantize.quantization_grid import QuantizationScheme, QuantizedWeight, divisible_group_size
from groundup.quantize.quantized_linear import QuantizedLinear, quantized_layers
from groundup.quantize.rtn import round_to_nearest


@dataclass(frozen=True)
class QuantizationSettings:
    """How a model is quantized; the knobs of [quantize] that methods read."""

    method: str
    scheme: QuantizationScheme
    damp_percent: float = 0.01
    act_order: bool = False


@dataclass(frozen=True)
class LayerQuantizationError:
    """Share of a layer's output energy that is error, on the calibration windows.

    Attributes:
        error: of the method that was chosen.
        rtn_error: of rounding to nearest, at the same scheme and on the same inputs.
    """

    layer: str
    error: float
    rtn_error: float


@dataclass
class QuantizationResult:
    """What a method leaves: the weights and errors of the layers it is done with."""

    weights: dict[str, QuantizedWeight] = field(default_factory=dict)
    errors: list[LayerQuantizationError] = field(default_factory=list)

    def add(
        self, name: str, weight: QuantizedWeight, *, effective: Tensor, original: Tensor, hessian: Tensor
    ) -> None:
        """Layer `name` has its codes, which act like the matrix `effective` did in the place of `original`
        (out in).
        """
        nearest = round_to_nearest(original, weight.scheme).dequantize()
        self.weights[name] = weight
        self.errors.append(
            LayerQuantizationError(
                name, output_error(original, effective, hessian), output_error(original, nearest, hessian)
            )
        )


def quantize_with_gptq(
    calibration: BlockCalibration,
    settings: QuantizationSettings,
    result: QuantizationResult,
    task: ProgressTask,
) -> None:
    """Layers in the order of their use; each sees inputs that the ones before it, already rounded, give."""
    layers = linear_layers(calibration.block)
    for subset in calibration.layers_by_input():
        moments = calibration.input_stats(subset)
        for name in subset:
            original, hessian = layers[name].weight.detach().float().clone(), moments[name].hessian
            weight = gptq(
                original,
                hessian,
                settings.scheme,
                damp_percent=settings.damp_percent,
                act_order=settings.act_order,
            )
            values = weight.dequantize()
            layers[name].weight.data.copy_(values)
            result.add(
                f"{calibration.name}.{name}", weight, effective=values, original=original, hessian=hessian
            )
            task.advance()


def quantize_with_awq(
    calibration: BlockCalibration,
    settings: QuantizationSettings,
    result: QuantizationResult,
    task: ProgressTask,
) -> None:
    """Scales for all layers, from the inputs of the unrounded block; then rounding to nearest."""
    layers = linear_layers(calibration.block)
    moments = calibration.input_stats(list(layers))
    originals = {name: layer.weight.detach().float().clone() for name, layer in layers.items()}
    for fold in scale_groups(calibration.block):
        weights = [layers[name].weight.detach().float() for name in fold.layers]
        scales, _ = search_scales(weights, moments[fold.layers[0]], settings.scheme)
        apply_scales(fold, layers, scales)
    for name, layer in layers.items():
        scaled = layer.weight.detach().float().clone()
        weight = round_to_nearest(scaled, settings.scheme)
        layer.weight.data.copy_(weight.dequantize())
        # Rows and columns were scaled: undone weight by weight, it shows what rounding did to the original.
        effective = originals[name] * torch.where(scaled == 0, 1.0, weight.dequantize() / scaled)
        path, hessian = f"{calibration.name}.{name}", moments[name].hessian
        result.add(path, weight, effective=effective, original=originals[name], hessian=hessian)
        task.advance()


def quantize_with_rtn(
    calibration: BlockCalibration,
    settings: QuantizationSettings,
    result: QuantizationResult,
    task: ProgressTask,
) -> None:
    """Rounding to nearest, with a look at what it costs."""
    layers = linear_layers(calibration.block)
    moments = calibration.input_stats(list(layers))
    for name, layer in layers.items():
        original, hessian = layer.weight.detach().float().clone(), moments[name].hessian
        weight = round_to_nearest(original, settings.scheme)
        values = weight.dequantize()
        layer.weight.data.copy_(values)
        result.add(f"{calibration.name}.{name}", weight, effective=values, original=original, hessian=hessian)
        task.advance()


METHODS: dict[
    str, Callable[[BlockCalibration, QuantizationSettings, QuantizationResult, ProgressTask], None]
] = {
    "rtn": quantize_with_rtn,
    "gptq": quantize_with_gptq,
    "awq": quantize_with_awq,
}


def quantize_model(
    model: nn.Module,
    settings: QuantizationSettings,
    windows: Tensor | None = None,
    progress: Progress | None = None,
) -> list[LayerQuantizationError]:
    """Replace the linear layers of the model's blocks, in place.

    Args:
        windows: calibration text, (N T) token ids; rounding to nearest does without.

    Returns one record per layer, in order; none without windows.
    Raises UserError when the group size does not fit a layer, and when a method that needs windows has none.
    """
    layers = quantizable_layers(model)
    if (fitting := adapt_scheme(model, settings.scheme)) != settings.scheme:
        raise UserError(
            f"quantize.group_size = {settings.scheme.group_size} does not divide every layer's input width",
            hint=f"use {fitting.group_size}",
        )
    notes = QuantizationResult()
    if windows is None:
        if settings.method != "rtn":
            raise UserError(
                f"quantize.method = {settings.method} looks at text, and there is none",
                hint="give calibration text, or use rtn",
            )
        notes.weights = {
            name: round_to_nearest(layer.weight.detach(), settings.scheme) for name, layer in layers.items()
        }
    else:
        windows = windows.to(next(model.parameters()).device)
        method = METHODS[settings.method]
        with (progress or Progress()).task(
            f"quantizing ({settings.method})", total=len(layers), unit="layers"
        ) as task:
            for station in iter_blocks(model, windows):
                method(station, settings, notes, task)
    replace_modules(
        model,
        {
            name: QuantizedLinear.from_weight(notes.weights[name], layer.bias)
            for name, layer in layers.items()
        },
    )
    return notes.errors


def replace_modules(model: nn.Module, layers: dict[str, nn.Module]) -> None:
    """Put `layers` into the places of the model that their names say."""
    for name, layer in layers.items():
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, layer)


def adapt_scheme(model: nn.Module, scheme: QuantizationScheme) -> QuantizationScheme:
    """`scheme` with the largest group size that fits: its own, halved until it divides every layer's input
    width.

    Raises UserError where none does, or where there is nothing to quantize.
    """
    layers = quantizable_layers(model)
    size = divisible_group_size(
        scheme.group_size, {name: layer.in_features for name, layer in layers.items()}
    )
    return dataclasses.replace(scheme, group_size=size)


def quantizable_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers inside the model's blocks, by name. Raises UserError where there are none."""
    found = {name: layer for name, layer in linear_layers(model).items() if ".blocks." in f".{name}"}
    if not found:
        raise UserError("the model has no plain linear layers in its blocks", hint="is it quantized already?")
    return found


def dequantize_model(model: nn.Module) -> nn.Module:
    """Put plain linear layers back into the places of the quantized ones, in place; their weights stay on the
    grid.
    """
    made: dict[str, nn.Module] = {}
    for name, layer in quantized_layers(model).items():
        plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        plain.weight = nn.Parameter(layer.dequantize(), requires_grad=False)
        if layer.bias is not None:
            plain.bias = nn.Parameter(layer.bias, requires_grad=False)
        made[name] = plain
    replace_modules(model, made)
    return model
