"""Quantized model folders in groundup's own layout, as in 09-quantized.

model.json          the configuration of the model, as in every model folder
quantization.json   method, names of the quantized layers, their scheme, and the schemes of those with another one
model.safetensors   the weights; a quantized layer is `packed`, `scale`, `zero` if asymmetric, `g_idx` if permuted;
                    or the tensors of NF4Linear
"""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.json_file import read_json_file
from groundup.interop.model_loading import QUANTIZATION_FILE
from groundup.interop.safetensors_files import SafetensorsFolder
from groundup.model import assign_weights, build_meta_model, load_config
from groundup.model.serialization import write_model_files
from groundup.quantize.layers.packed_layers import PackedLayer, empty_layer, packed_layers
from groundup.quantize.layers.quantized_experts import split_experts
from groundup.quantize.quantization_grid import QuantizationScheme


@dataclass(frozen=True, kw_only=True)
class SchemeDescription:
    """A scheme in quantization.json."""

    bits: int
    group_size: int
    symmetric: bool
    values: str = "integer"
    input_bits: int | None = None


@dataclass(frozen=True, kw_only=True)
class QuantizationDescription(SchemeDescription):
    """The fields of quantization.json that are read; layers named in `schemes` have another scheme than the first one."""

    layers: list[str]
    schemes: dict[str, SchemeDescription] = field(default_factory=dict)


def save_quantized_folder(model: nn.Module, folder: Path, method: str) -> QuantizationScheme:
    """Write a quantized model, and return the scheme of most weights; `method` is only recorded."""
    layers = packed_layers(model)
    scheme = main_scheme(model)
    write_model_files(model, folder)
    others = {name: asdict(layer.scheme) for name, layer in layers.items() if layer.scheme != scheme}
    description = {"method": method, **asdict(scheme), "layers": list(layers)} | ({"schemes": others} if others else {})
    (folder / QUANTIZATION_FILE).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    return scheme


def main_scheme(model: nn.Module) -> QuantizationScheme:
    """The scheme of most weights of a quantized model."""
    weights: Counter[QuantizationScheme] = Counter()
    for layer in packed_layers(model).values():
        weights[layer.scheme] += layer.in_features * layer.out_features
    return weights.most_common(1)[0][0]


def load_quantized_folder(folder: Path, device: torch.device | str = "cpu") -> nn.Module:
    """The model that `save_quantized_folder` wrote, in evaluation mode.

    Raises UserError for a missing or damaged file, and for weights that do not match the description.
    """
    schemes = _read(folder / QUANTIZATION_FILE)
    model = build_meta_model(load_config(folder)).requires_grad_(False)
    file = SafetensorsFolder(folder)
    if any(name.rpartition(".")[2].isdigit() for name in schemes):
        split_experts(model)
    for name, scheme in schemes.items():
        layer = _empty_layer(model, name, scheme, folder, permuted=f"{name}.g_idx" in file.shapes)
        model.set_submodule(name, layer)
    assign_weights(model, {name: file.read(name).to(device) for name in file.shapes}, source=str(folder))
    return model.eval().requires_grad_(False)


def _empty_layer(model: nn.Module, name: str, scheme: QuantizationScheme, folder: Path, permuted: bool) -> PackedLayer:
    try:
        layer = model.get_submodule(name)
    except AttributeError:
        layer = None
    if type(layer) is not nn.Linear:
        raise UserError(
            f"{folder / QUANTIZATION_FILE}: {name}: the model has no such linear layer", hint="the file was edited"
        )
    return empty_layer(layer, scheme, permuted=permuted)


def _read(path: Path) -> dict[str, QuantizationScheme]:
    """The scheme of each quantized layer."""
    found = read_json_file(QuantizationDescription, path, hint="the file was damaged or edited")
    described = {name: found.schemes.get(name, found) for name in found.layers}
    try:
        return {
            name: QuantizationScheme(each.bits, each.group_size, each.symmetric, each.values, each.input_bits)
            for name, each in described.items()
        }
    except UserError as error:
        raise UserError(f"{path}: {error.message}", hint="the file was damaged or edited") from None
