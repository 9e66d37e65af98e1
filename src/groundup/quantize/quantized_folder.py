"""Quantized model folders in groundup's own layout, as in 09-quantized.

model.json          the configuration of the model, as in every model folder
quantization.json   method, scheme and names of the quantized layers
model.safetensors   the weights; a quantized layer is `packed`, `scale` and, if asymmetric, `zero`
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.json_file import read_json_file
from groundup.interop.model_loading import QUANTIZATION_FILE
from groundup.interop.safetensors_files import SafetensorsFolder
from groundup.model import assign_weights, build_meta_model, load_config
from groundup.model.serialization import write_model_files
from groundup.quantize.layers.quantized_linear import QuantizedLinear, quantized_layers
from groundup.quantize.quantization_grid import QuantizationScheme


@dataclass(frozen=True)
class QuantizationDescription:
    """The fields of quantization.json that are read."""

    bits: int
    group_size: int
    symmetric: bool
    layers: list[str]


def save_quantized_folder(model: nn.Module, folder: Path, method: str) -> QuantizationScheme:
    """Write a quantized model, and return its scheme; `method` is only recorded."""
    layers = quantized_layers(model)
    scheme = next(iter(layers.values())).scheme
    write_model_files(model, folder)
    description = {"method": method, **asdict(scheme), "layers": list(layers)}
    (folder / QUANTIZATION_FILE).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    return scheme


def load_quantized_folder(folder: Path, device: torch.device | str = "cpu") -> nn.Module:
    """The model that `save_quantized_folder` wrote, in evaluation mode.

    Raises UserError for a missing or damaged file, and for weights that do not match the description.
    """
    scheme, names = _read(folder / QUANTIZATION_FILE)
    model = build_meta_model(load_config(folder)).requires_grad_(False)
    with torch.device("meta"):
        for name in names:
            model.set_submodule(name, _empty_layer(model, name, scheme, folder))
    file = SafetensorsFolder(folder)
    assign_weights(model, {name: file.read(name).to(device) for name in file.shapes}, source=str(folder))
    return model.eval().requires_grad_(False)


def _empty_layer(model: nn.Module, name: str, scheme: QuantizationScheme, folder: Path) -> QuantizedLinear:
    try:
        layer = model.get_submodule(name)
    except AttributeError:
        layer = None
    if type(layer) is not nn.Linear:
        raise UserError(
            f"{folder / QUANTIZATION_FILE}: {name}: the model has no such linear layer", hint="the file was edited"
        )
    bias = None if layer.bias is None else layer.bias.dtype
    return QuantizedLinear(layer.in_features, layer.out_features, scheme, bias)


def _read(path: Path) -> tuple[QuantizationScheme, list[str]]:
    found = read_json_file(QuantizationDescription, path, hint="the file was damaged or edited")
    if found.bits not in (4, 8) or found.group_size < 1:
        raise UserError(f"{path}: bits = {found.bits}, group_size = {found.group_size}; expected 4 or 8, and above 0")
    return QuantizationScheme(found.bits, found.group_size, found.symmetric), found.layers
