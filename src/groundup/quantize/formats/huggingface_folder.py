"""Hugging Face folders with quantized weights: export and import.

Codes, scales and zeros go through interop's weight maps for float weights: the supported maps only rename, stack or
split matrices along the output.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.json_file import shorten
from groundup.interop.families import Family, require_family
from groundup.interop.families.select_family import select_family
from groundup.interop.huggingface_model import DTYPES, read_config, write_config_files
from groundup.interop.safetensors_files import SafetensorsFolder, cast_floating, write_safetensors
from groundup.interop.weight_map import TensorMap, check_tensors, expected_shapes
from groundup.model import build_meta_model
from groundup.quantize.formats import FORMATS
from groundup.quantize.formats.quantized_format import QuantizedFormat
from groundup.quantize.layers.quantized_linear import QuantizedLinear, quantized_layers
from groundup.quantize.quantization_grid import QuantizationScheme, QuantizedWeight
from groundup.recipe import ModelConfig
from groundup.tokenizer import Tokenizer

WEIGHT_SUFFIX = ".weight"


def export_huggingface_quantized(
    model: nn.Module, tokenizer: Tokenizer | None, out: Path, *, format: str, dtype: str
) -> list[Path]:
    """Write a quantized model as a Hugging Face folder. Returns the files written.

    Args:
        format: gptq, awq or compressed-tensors.
        dtype: of float tensors, and of compressed-tensors' scales, which are exact in float32 and float16.

    Raises UserError for a model that is not quantized, or that the format or no known family can represent.
    """
    layers = quantized_layers(model)
    if not layers:
        raise UserError(
            f"the model has no quantized layers, which format {format} needs", hint="groundup quantize it first"
        )
    file_format, config = FORMATS[format], _config(model)
    weights = _equal_groups({name + WEIGHT_SUFFIX: layer.unpack_weight() for name, layer in layers.items()})
    description = file_format.to_config(next(iter(weights.values())).scheme)
    family = select_family(config)
    tensors = _exported_tensors(model, weights, family, file_format, DTYPES[dtype])
    out.mkdir(parents=True, exist_ok=True)
    files = write_safetensors(tensors, out)
    return [*files, *write_config_files(config, tokenizer, out, dtype, {"quantization_config": description})]


MATRICES = {"qweight", "qzeros", "scales", "weight_packed", "weight_scale"}
"""Tensors of a layer with two dimensions."""


def load_huggingface_quantized(folder: Path, device: torch.device | str = "cpu") -> nn.Module:
    """The model of a Hugging Face folder with quantized weights.

    Raises UserError for an unsupported format, scheme or family, and for missing or misshaped weights.
    """
    fields = read_config(folder)
    described = fields.get("quantization_config")
    if not isinstance(described, dict):
        raise UserError(f"{folder}: quantization_config = {shorten(described)}, expected an object")
    if (method := str(described.get("quant_method"))) not in FORMATS:
        raise UserError(f"{folder}: quant_method = {method!r}, expected one of {', '.join(FORMATS)}")
    family, file_format = require_family(fields.get("model_type"), folder), FORMATS[method]
    source = _QuantizedSource(SafetensorsFolder(folder), file_format, file_format.scheme_from_config(described))
    config = family.read_config(fields, folder)
    model = build_meta_model(config, device).requires_grad_(False)
    empty = {name: tensor.to("meta") for name, tensor in model.state_dict().items()}
    tensor_maps = list(family.weight_map(config, list(empty)))
    check_tensors(
        expected_shapes(tensor_maps, empty),
        source,
        (*family.ignored_tensors(config), *((family.head,) if config.tie_embeddings else ())),
    )
    _load_weights(model, tensor_maps, source, device)
    return model.eval().requires_grad_(False)


def _exported_tensors(
    model: nn.Module,
    weights: Mapping[str, QuantizedWeight],
    family: Family,
    file_format: QuantizedFormat,
    dtype: torch.dtype,
) -> Iterator[tuple[str, Tensor]]:
    parts = ("packed", "scale", "zero", "g_idx")
    quantized = tuple(f"{name.removesuffix(WEIGHT_SUFFIX)}.{part}" for name in weights for part in parts)
    floats = {name: tensor for name, tensor in model.state_dict().items() if name not in quantized}
    for tensor_map in family.weight_map(_config(model), [*floats, *weights]):
        if tensor_map.native[0] not in weights:
            tensors = tensor_map.to_foreign([floats[name] for name in tensor_map.native])
            yield from ((n, cast_floating(t, dtype).cpu()) for n, t in zip(tensor_map.foreign, tensors, strict=True))
            continue
        quantized_weights = _map_quantized(
            tensor_map.to_foreign, [weights[name] for name in tensor_map.native], tensor_map
        )
        for name, weight in zip(tensor_map.foreign, quantized_weights, strict=True):
            parts = file_format.to_tensors(weight, dtype)
            yield from ((name.removesuffix(WEIGHT_SUFFIX) + f".{part}", tensor.cpu()) for part, tensor in parts.items())


def _equal_groups(weights: Mapping[str, QuantizedWeight]) -> dict[str, QuantizedWeight]:
    """The weights with one group size, which these files have: the largest that divides all groups.

    Raises UserError for layers of different bits or symmetry.
    """
    if len(kinds := {(weight.scheme.bits, weight.scheme.symmetric) for weight in weights.values()}) > 1:
        raise UserError(f"layers of {len(kinds)} kinds of bits or symmetry, expected one for this format")
    equal = {name: weight.with_equal_groups() for name, weight in weights.items()}
    size = math.gcd(*(weight.scheme.group_size for weight in equal.values()))
    return {name: weight.with_equal_groups(size) for name, weight in equal.items()}


def _load_weights(
    model: nn.Module, tensor_maps: list[TensorMap], source: "_QuantizedSource", device: torch.device | str
) -> None:
    layers: dict[str, QuantizedWeight] = {}
    floats: dict[str, Tensor] = {}
    for tensor_map in tensor_maps:
        if all(name in source.quantized for name in tensor_map.foreign):
            weights = _map_quantized(
                tensor_map.to_native, [source.weight(name) for name in tensor_map.foreign], tensor_map
            )
            layers |= zip(tensor_map.native, weights, strict=True)
        else:
            floats |= zip(
                tensor_map.native, tensor_map.to_native([source.read(name) for name in tensor_map.foreign]), strict=True
            )
    model.load_state_dict({name: tensor.to(device) for name, tensor in floats.items()}, assign=True, strict=False)
    for name, weight in layers.items():
        path = name.removesuffix(WEIGHT_SUFFIX)
        bias = floats.get(f"{path}.bias")
        model.set_submodule(path, QuantizedLinear.from_weight(weight, bias).to(device))


def _map_quantized(mapping: Any, weights: list[QuantizedWeight], tensor_map: TensorMap) -> list[QuantizedWeight]:
    """Apply a map for float weights to codes, scales and zeros."""
    scheme = weights[0].scheme
    codes, scales, zeros = (mapping([getattr(w, part) for w in weights]) for part in ("codes", "scale", "zero"))
    mapped = [QuantizedWeight(*parts, scheme) for parts in zip(codes, scales, zeros, strict=True)]
    if any(w.scale.shape != (w.codes.shape[0], w.codes.shape[1] // scheme.group_size) for w in mapped):
        raise UserError(
            f"{tensor_map.native[0]}: this family stores transposed matrices, which quantized formats do not support",
            hint="Llama-like families can be exported",
        )
    return mapped


@dataclass
class _QuantizedSource:
    """Tensor reader that presents the quantized layers of a folder as float weights by name."""

    file: SafetensorsFolder
    format: QuantizedFormat
    scheme: QuantizationScheme

    def __post_init__(self) -> None:
        self.path = self.file.path
        suffix = f".{self.format.key_tensor}"
        layers = [name.removesuffix(suffix) for name in self.file.shapes if name.endswith(suffix)]
        self.quantized = {layer + WEIGHT_SUFFIX: layer for layer in layers}
        self._parts: dict[str, list[str]] = {layer: [] for layer in layers}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for name, shape in self.file.shapes.items():
            layer, _, part = name.rpartition(".")
            if layer in self._parts and part != "bias":
                self._parts[layer].append(part)
            else:
                self.shapes[name] = shape
        for name, layer in self.quantized.items():
            self.shapes[name] = self.format.weight_shape(self.file.shapes[layer + suffix], self.scheme)

    def read(self, name: str) -> Tensor:
        return self.file.read(name)

    def weight(self, name: str) -> QuantizedWeight:
        layer = self.quantized[name]
        tensors = {part: self.file.read(f"{layer}.{part}") for part in self._parts[layer]}
        for part in MATRICES & set(tensors):
            if tensors[part].ndim != 2:
                shape = tuple(tensors[part].shape)
                raise UserError(f"{self.path}: {layer}.{part} has shape {shape}, expected two dimensions")
        try:
            return self.format.from_tensors(tensors, self.scheme)
        except KeyError as error:
            raise UserError(
                f"{self.path}: {layer} has no tensor {error}, expected in {self.format.name} weights"
            ) from None


def _config(model: nn.Module) -> ModelConfig:
    return model.config  # type: ignore[return-value]
