"""The methods, applied to the layers of one block."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from groundup.quantize.calibration import BlockCalibration, InputStats, expert_matrix, is_expert, linear_layers
from groundup.quantize.layers.float8 import FLOAT8, quantize_float8
from groundup.quantize.layers.int8_linear import INT8_INPUTS
from groundup.quantize.layers.nf4 import NF4, NF4Weight, quantize_nf4
from groundup.quantize.methods.autoround import RoundingStart, learn_rounding
from groundup.quantize.methods.awq import apply_scales, scale_groups, search_scales
from groundup.quantize.methods.gptq import gptq
from groundup.quantize.methods.smoothquant import smoothing_scales
from groundup.quantize.quantization_grid import QuantizationScheme, QuantizedWeight, round_to_nearest


@dataclass(frozen=True)
class QuantizationSettings:
    """Method, scheme and method options: the knobs of [quantize] that methods read.

    Attributes:
        layer_schemes: other schemes than `scheme`, by layer name.
        max_bytes: of the model's file; the bits of `scheme` are then replaced layer by layer (methods/bit_allocation.py).
        seed: of the order in which autoround reads the calibration windows.
    """

    method: str
    scheme: QuantizationScheme
    damp_percent: float = 0.05
    act_order: bool = True
    layer_schemes: Mapping[str, QuantizationScheme] = field(default_factory=dict)
    max_bytes: float | None = None
    rounding_steps: int = 50
    seed: int = 0

    def scheme_of(self, layer: str) -> QuantizationScheme:
        """The scheme of a layer of the model."""
        return self.layer_schemes.get(layer, self.scheme)


AnyWeight = QuantizedWeight | NF4Weight
SetStatus = Callable[[str], None]


class QuantizedLayer(NamedTuple):
    """A layer's name in its block and new weight; `effective` is the weight's effect in place of `original` (out in)."""

    name: str
    weight: AnyWeight
    original: Tensor
    effective: Tensor
    stats: InputStats
    note: str = ""


def quantize_with_gptq(
    calibration: BlockCalibration,
    settings: QuantizationSettings,
    set_status: SetStatus,
    starts: dict[str, RoundingStart] | None = None,
) -> Iterator[QuantizedLayer]:
    """GPTQ for the layers in order of use; the inputs of each come from the quantized layers before it."""
    layers = linear_layers(calibration.block)
    for names in calibration.layers_by_input():
        stats = calibration.input_stats(names)
        notes = share_expert_stats(stats)
        for together in _same_inputs(names, stats, settings, calibration):
            originals = [_float_weight(layers[name]) for name in together]
            scheme, stacked = settings.scheme_of(calibration.path(together[0])), torch.cat(originals)
            unrounded = None if starts is None else torch.empty_like(stacked)
            weight = gptq(
                stacked, stats[together[0]].hessian, scheme, damp_percent=settings.damp_percent,
                act_order=settings.act_order, unrounded=unrounded,
            )  # fmt: skip
            sizes = [len(original) for original in originals]
            parts = weight.split_rows(sizes)
            if starts is not None and unrounded is not None:
                starts |= zip(together, map(RoundingStart, parts, unrounded.split(sizes)), strict=True)
            for name, original, part in zip(together, originals, parts, strict=True):
                yield QuantizedLayer(name, part, original, part.dequantize(), stats[name], notes.get(name, ""))


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


def quantize_with_awq(
    calibration: BlockCalibration, settings: QuantizationSettings, set_status: SetStatus
) -> Iterator[QuantizedLayer]:
    """AWQ scales for all layers from the inputs of the float block, then rounding to nearest."""
    layers = linear_layers(calibration.block)
    stats = calibration.input_stats(list(layers))
    originals = _make_float(layers)
    notes = share_expert_stats(stats)
    importance = {name: stats[name].hessian.diagonal() for name in layers}
    for group in scale_groups(calibration.block):
        weights = [layers[name].weight for name in group.layers]
        scheme = settings.scheme_of(calibration.path(group.layers[0]))
        inputs = stats[group.layers[0]]
        if is_expert(group.layers[0]) and len(group.layers) > 1:  # the inputs of all experts
            inputs = InputStats.merged([stats[name] for name in group.layers if is_expert(name)])
        scales, _ = search_scales(weights, inputs, scheme, group.pool)
        scales = apply_scales(group, layers, scales)
        importance |= {name: importance[name] / scales**2 for name in group.layers}
    for name, layer in layers.items():
        scaled = layer.weight
        weight = round_to_nearest(scaled, settings.scheme_of(calibration.path(name)), importance[name])
        effective = _effective(originals[name], scaled, weight)
        yield QuantizedLayer(name, weight, originals[name], effective, stats[name], notes.get(name, ""))


def quantize_with_smoothquant(
    calibration: BlockCalibration, settings: QuantizationSettings, set_status: SetStatus
) -> Iterator[QuantizedLayer]:
    """Smoothed inputs, then rounding to nearest; the errors are those of the weights alone."""
    layers = linear_layers(calibration.block)
    stats = calibration.input_stats(list(layers))
    originals = _make_float(layers)
    for group in scale_groups(calibration.block):
        largest = torch.stack([stats[name].max_abs for name in group.layers]).amax(0)
        weights = [layers[name].weight for name in group.layers]
        apply_scales(group, layers, group.pool(smoothing_scales(weights, largest)))
    for name, layer in layers.items():
        scaled = layer.weight
        weight = round_to_nearest(scaled, settings.scheme_of(calibration.path(name)))
        yield QuantizedLayer(name, weight, originals[name], _effective(originals[name], scaled, weight), stats[name])


def quantize_to_nearest(
    calibration: BlockCalibration, settings: QuantizationSettings, set_status: SetStatus
) -> Iterator[QuantizedLayer]:
    """The nearest values: of a grid on the best range of each group by its effect on the layer's output, of NF4, of float8."""
    layers = linear_layers(calibration.block)
    stats = calibration.input_stats(list(layers))
    for name, layer in layers.items():
        original, scheme = _float_weight(layer), settings.scheme_of(calibration.path(name))
        weight = quantize_weight_alone(original, scheme, stats[name].hessian.diagonal())
        yield QuantizedLayer(name, weight, original, weight.dequantize(), stats[name])


def quantize_weight_alone(weight: Tensor, scheme: QuantizationScheme, importance: Tensor | None = None) -> AnyWeight:
    """`weight` (out in) rounded to the nearest values of a scheme; `importance` of the inputs (in), default: all the same."""
    if scheme.values == "nf4":
        return quantize_nf4(weight)
    if scheme.values == "float8":
        return quantize_float8(weight)
    return round_to_nearest(weight, scheme, torch.ones_like(weight[0]) if importance is None else importance)


def quantize_with_autoround(
    calibration: BlockCalibration, settings: QuantizationSettings, set_status: SetStatus
) -> Iterator[QuantizedLayer]:
    """GPTQ for each layer of the block, then rounding and ranges learned for all of them together."""
    layers, starts, found = linear_layers(calibration.block), {}, []
    for layer in quantize_with_gptq(calibration, settings, set_status, starts):
        found.append(layer)
        layers[layer.name].weight.data.copy_(layer.effective)
    assert calibration.float_outputs is not None
    on_step = lambda step, loss: set_status(f"{calibration.name}: step {step + 1}, error {loss:.2g}")  # noqa: E731
    weights = learn_rounding(
        calibration,
        calibration.float_outputs,
        starts,
        steps=settings.rounding_steps,
        seed=settings.seed,
        on_step=on_step,
    )
    for layer in found:
        yield layer._replace(weight=weights[layer.name], effective=weights[layer.name].dequantize())


def _effective(original: Tensor, scaled: Tensor, weight: QuantizedWeight) -> Tensor:
    """What rounding did to the original: weight by weight, the scales of rows and columns cancel."""
    return original * torch.where(scaled == 0, 1.0, weight.dequantize() / scaled)


def _make_float(layers: Mapping[str, nn.Linear]) -> dict[str, Tensor]:
    """Give layers weights of float32, which scales change before they are rounded. Returns the weights as they were."""
    for layer in layers.values():
        layer.weight = nn.Parameter(layer.weight.detach().float(), requires_grad=False)
    return {name: layer.weight.clone() for name, layer in layers.items()}


def _float_weight(layer: nn.Linear) -> Tensor:
    return layer.weight.detach().float().clone()


WITHOUT_TEXT = ("rtn", "nf4", "float8")
"""Methods that can do without calibration text."""

FLOAT_OUTPUTS = ("autoround",)
"""Methods that read the float model's outputs."""

METHOD_SCHEMES = {"nf4": NF4, "float8": FLOAT8, "smoothquant": INT8_INPUTS}
"""The schemes of methods that have only one."""

METHODS: dict[str, Callable[[BlockCalibration, QuantizationSettings, SetStatus], Iterator[QuantizedLayer]]] = {
    "rtn": quantize_to_nearest,
    "gptq": quantize_with_gptq,
    "awq": quantize_with_awq,
    "autoround": quantize_with_autoround,
    "nf4": quantize_to_nearest,
    "float8": quantize_to_nearest,
    "smoothquant": quantize_with_smoothquant,
}
