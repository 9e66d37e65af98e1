"""Quantization of a whole model: replace the linear layers of its blocks, experts included, by quantized ones.

Embeddings, norms, routers and the output head are not quantized: they are few in a large model and the most sensitive to
rounding.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.progress import Progress
from groundup.model.frozen_linear import PackedLinear
from groundup.quantize.block_checkpoint import BlockCheckpoint
from groundup.quantize.calibration import (
    BlockCalibration,
    InputStats,
    expert_matrix,
    is_expert,
    iter_blocks,
    linear_layers,
    output_errors,
)
from groundup.quantize.layers.quantized_experts import join_experts, split_experts
from groundup.quantize.layers.quantized_linear import QuantizedLinear, quantized_layers
from groundup.quantize.methods.awq import apply_scales, scale_groups, search_scales
from groundup.quantize.methods.bit_allocation import schemes_for_size
from groundup.quantize.methods.autoround import RoundingStart, learn_rounding
from groundup.quantize.methods.gptq import gptq_with_corrections
from groundup.quantize.quantization_grid import QuantizationScheme, QuantizedWeight, round_to_nearest


@dataclass(frozen=True)
class QuantizationSettings:
    """Method, scheme and method options: the knobs of [quantize] that methods read.

    Attributes:
        layer_schemes: other schemes than `scheme`, by layer name.
        max_bytes: of the model's file; the bits of `scheme` are then replaced layer by layer (methods/bit_allocation.py).
    """

    method: str
    scheme: QuantizationScheme
    damp_percent: float = 0.05
    act_order: bool = True
    layer_schemes: Mapping[str, QuantizationScheme] = field(default_factory=dict)
    max_bytes: float | None = None

    def scheme_of(self, layer: str) -> QuantizationScheme:
        """The scheme of a layer of the model."""
        return self.layer_schemes.get(layer, self.scheme)


@dataclass(frozen=True)
class LayerQuantizationError:
    """Relative squared output error of a layer on the calibration windows.

    Attributes:
        error: of the chosen method.
        rtn_error: of rounding to nearest on the full range of each group, at the same scheme, on the same inputs.
        note: what was done for an expert with too few tokens, or empty.
    """

    layer: str
    error: float
    rtn_error: float
    note: str = ""


class QuantizedLayer(NamedTuple):
    """A layer's name in its block and new weight; `effective` is the weight's effect in place of `original` (out in)."""

    name: str
    weight: QuantizedWeight
    original: Tensor
    effective: Tensor
    stats: InputStats
    note: str = ""
    unrounded: Tensor | None = None


def quantize_with_gptq(calibration: BlockCalibration, settings: QuantizationSettings) -> Iterator[QuantizedLayer]:
    """GPTQ for the layers in order of use; the inputs of each come from the quantized layers before it."""
    layers = linear_layers(calibration.block)
    for names in calibration.layers_by_input():
        stats = calibration.input_stats(names)
        notes = share_expert_stats(stats)
        for together in _same_inputs(names, stats, settings, calibration):
            originals = [_float_weight(layers[name]) for name in together]
            damp_percent, act_order = settings.damp_percent, settings.act_order
            scheme, hessian = settings.scheme_of(calibration.path(together[0])), stats[together[0]].hessian
            weight, corrected = gptq_with_corrections(torch.cat(originals), hessian, scheme, damp_percent=damp_percent, act_order=act_order)
            sizes = [len(original) for original in originals]
            parts = zip(together, originals, weight.split_rows(sizes), corrected.split(sizes), strict=True)
            for name, original, part, unrounded in parts:
                yield QuantizedLayer(name, part, original, part.dequantize(), stats[name], notes.get(name, ""), unrounded)


def _same_inputs(
    names: list[str], stats: dict[str, InputStats], settings: QuantizationSettings, calibration: BlockCalibration
) -> list[list[str]]:
    """The layers with the same inputs and scheme."""
    groups: dict[tuple[int, QuantizationScheme], list[str]] = {}
    for name in names:
        groups.setdefault((id(stats[name]), settings.scheme_of(calibration.path(name))), []).append(name)
    return list(groups.values())


def share_expert_stats(stats: dict[str, InputStats]) -> dict[str, str]:
    """Replace the statistics of experts with fewer inputs than their width by those of all experts. Returns notes on them."""
    notes = {}
    for matrix in {expert_matrix(name): None for name in stats if is_expert(name)}:
        experts = [name for name in stats if is_expert(name) and expert_matrix(name) == matrix]
        few = [name for name in experts if stats[name].num_inputs < len(stats[name].hessian)]
        shared = InputStats.merged([stats[name] for name in experts]) if few else None
        for name in few:
            notes[name] = f"{stats[name].num_inputs} tokens: statistics of all experts"
            stats[name] = shared  # type: ignore[assignment]
    return notes


def quantize_with_awq(calibration: BlockCalibration, settings: QuantizationSettings) -> Iterator[QuantizedLayer]:
    """AWQ scales for all layers from the inputs of the float block, then rounding to nearest."""
    layers = linear_layers(calibration.block)
    stats = calibration.input_stats(list(layers))
    originals = {name: _float_weight(layer) for name, layer in layers.items()}
    notes = share_expert_stats(stats)
    importance = {name: stats[name].hessian.diagonal() for name in layers}
    for group in scale_groups(calibration.block):
        weights = [_float_weight(layers[name]) for name in group.layers]
        scheme = settings.scheme_of(calibration.path(group.layers[0]))
        inputs = stats[group.layers[0]]
        if is_expert(group.layers[0]) and len(group.layers) > 1:  # the inputs of all experts
            inputs = InputStats.merged([stats[name] for name in group.layers if is_expert(name)])
        scales, _ = search_scales(weights, inputs, scheme)
        apply_scales(group, layers, scales)
        importance |= {name: importance[name] / scales**2 for name in group.layers}
    for name, layer in layers.items():
        scaled = _float_weight(layer)
        weight = round_to_nearest(scaled, settings.scheme_of(calibration.path(name)), importance[name])
        # weight by weight, the scales of rows and columns cancel: what remains is the effect of rounding
        effective = originals[name] * torch.where(scaled == 0, 1.0, weight.dequantize() / scaled)
        yield QuantizedLayer(name, weight, originals[name], effective, stats[name], notes.get(name, ""))


def quantize_with_rtn(calibration: BlockCalibration, settings: QuantizationSettings) -> Iterator[QuantizedLayer]:
    """Rounding to nearest on the best range of each group, by its effect on the layer's output."""
    layers = linear_layers(calibration.block)
    stats = calibration.input_stats(list(layers))
    for name, layer in layers.items():
        original = _float_weight(layer)
        scheme, importance = settings.scheme_of(calibration.path(name)), stats[name].hessian.diagonal()
        weight = round_to_nearest(original, scheme, importance)
        yield QuantizedLayer(name, weight, original, weight.dequantize(), stats[name])


def _float_weight(layer: nn.Linear) -> Tensor:
    return layer.weight.detach().float().clone()


def quantize_with_autoround(calibration: BlockCalibration, settings: QuantizationSettings) -> Iterator[QuantizedLayer]:
    """GPTQ for each layer of the block, then rounding and ranges learned for all of them together."""
    layers, found = linear_layers(calibration.block), []
    for layer in quantize_with_gptq(calibration, settings):
        found.append(layer)
        layers[layer.name].weight.data.copy_(layer.effective)
    starts = {layer.name: RoundingStart(layer.weight, layer.unrounded) for layer in found}
    assert calibration.float_outputs is not None
    import os
    weights = learn_rounding(calibration, calibration.float_outputs, starts, steps=int(os.environ["STEPS"]))
    for layer in found:
        yield layer._replace(weight=weights[layer.name], effective=weights[layer.name].dequantize())


METHODS: dict[str, Callable[[BlockCalibration, QuantizationSettings], Iterator[QuantizedLayer]]] = {
    "rtn": quantize_with_rtn,
    "gptq": quantize_with_gptq,
    "awq": quantize_with_awq,
    "autoround": quantize_with_autoround,
}


def quantize_model(
    model: nn.Module,
    settings: QuantizationSettings,
    windows: Tensor | None = None,
    progress: Progress | None = None,
    *,
    decoder_windows: Tensor | None = None,
    checkpoint: Path | None = None,
) -> list[LayerQuantizationError]:
    """Quantize the linear layers of the model's blocks in place. Returns the errors of the layers, in order.

    Args:
        windows: calibration text, (N T) token ids; optional for rtn, which then returns no errors.
        decoder_windows: the decoder's tokens of an encoder-decoder, as in `iter_blocks`.
        checkpoint: folder for the finished blocks, from which a killed call goes on; the caller removes it.

    Raises UserError for gptq or awq without windows, and for a model that is quantized already.
    """
    if windows is None and (settings.method != "rtn" or settings.max_bytes is not None):
        needs = f"method = {settings.method}" if settings.max_bytes is None else "size"
        raise UserError(
            f"quantize.{needs} needs calibration text", hint="give calibration text, or use rtn without size"
        )
    split_experts(model)
    layers = quantizable_layers(model)
    errors: list[LayerQuantizationError] = []
    if windows is None:
        for name, layer in layers.items():
            original = layer.weight.detach()
            weight = round_to_nearest(original, settings.scheme_of(name), torch.ones_like(original[0]))
            model.set_submodule(name, QuantizedLinear.from_weight(weight, layer.bias))
        return errors
    device = next(model.parameters()).device
    windows = windows.to(device)
    decoder_windows = None if decoder_windows is None else decoder_windows.to(device)
    if settings.max_bytes is not None:
        schemes = schemes_for_size(model, layers, windows, settings.scheme, settings.max_bytes, progress)
        settings = replace(settings, layer_schemes=schemes)
    finished = BlockCheckpoint(checkpoint, settings, windows, decoder_windows)
    with (progress or Progress()).task(f"quantizing ({settings.method})", total=len(layers), unit="layers") as task:
        for calibration in iter_blocks(model, windows, decoder_windows, with_float_outputs=settings.method == "autoround"):
            if (restored := finished.restore(calibration.name, calibration.block)) is not None:
                errors += [LayerQuantizationError(**fields) for fields in restored]
                task.resume_at(len(errors))
                continue
            first = len(errors)
            for layer in METHODS[settings.method](calibration, settings):
                path = calibration.path(layer.name)
                errors.append(_layer_error(layer, path, settings.scheme_of(path)))
                # before the next layer of the block is calibrated
                model.set_submodule(path, QuantizedLinear.from_weight(layer.weight, layers[path].bias))
                task.set_status(f"{path}: error {errors[-1].error:.2g}, {errors[-1].rtn_error:.2g} to nearest")
                task.advance()
            finished.save(calibration.name, calibration.block, [asdict(error) for error in errors[first:]])
    return errors


def _layer_error(layer: QuantizedLayer, path: str, scheme: QuantizationScheme) -> LayerQuantizationError:
    nearest = round_to_nearest(layer.original, scheme).dequantize()
    error, rtn_error = output_errors(layer.original, [layer.effective, nearest], layer.stats.hessian)
    return LayerQuantizationError(path, error, rtn_error, layer.note)


def quantizable_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers inside the model's blocks, by name. Raises UserError when there are none."""
    layers = {name: layer for name, layer in linear_layers(model).items() if ".blocks." in f".{name}"}
    if not layers:
        raise UserError("the model has no float linear layers in its blocks", hint="is it quantized already?")
    return layers


def dequantize_model(model: nn.Module) -> nn.Module:
    """Replace quantized layers by `nn.Linear` layers and experts with the same values, in place. Returns the model."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, PackedLinear):
            model.set_submodule(name, layer.to_linear())
    join_experts(model)
    return model


def bits_per_weight(model: nn.Module) -> float:
    """Stored bits of the quantized layers' weights, scales and zeros included, per weight."""
    layers = quantized_layers(model).values()
    stored = sum(layer.scheme.stored_bits(layer.out_features, layer.in_features) for layer in layers)
    return stored / sum(layer.out_features * layer.in_features for layer in layers)
