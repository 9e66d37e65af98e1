"""Whole Hugging Face folders of quantized models, out and in.

Which of our layers is which of theirs is what interop's families say of plain weights: codes, scales and
zeros go through the same maps, because those only rename a layer or put layers below one another.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.interop.families import FAMILIES, Family
from groundup.interop.families.select_family import select_family
from groundup.interop.huggingface_model import DTYPES, read_config, write_config_files
from groundup.interop.safetensors_files import SafetensorsFolder, cast_floating, write_safetensors
from groundup.interop.weight_map import TensorMap, check_tensors, expected_shapes
from groundup.quantize.formats import FORMATS
from groundup.quantize.formats.quantized_format import QuantizedFormat
from groundup.quantize.meta_model import build_meta_model
from groundup.quantize.quantization_grid import QuantizationScheme, QuantizedWeight
from groundup.quantize.quantized_linear import QuantizedLinear, quantized_layers
from groundup.quantize.quantizer import replace_modules
from groundup.recipe import ModelConfig
from groundup.tokenizer import Tokenizer

WEIGHT_SUFFIX = ".weight"


def export_huggingface_quantized(
    model: nn.Module, tokenizer: Tokenizer | None, out: Path, *, format: str, dtype: str
) -> list[Path]:
    """Write a quantized model as a Hugging Face folder in a foreign format. Returns the files written.

    Args:
        format: gptq, awq or compressed-tensors.
        dtype: of the tensors that are not quantized; of compressed-tensors' scales too, which are exact in
            float32 and float16.

    Raises UserError for a model that is not quantized, or that the format or no known family can hold.
    """
    layers = quantized_layers(model)
    if not layers:
        raise UserError(
            f"format {format} holds quantized weights, and the model has none",
            hint="groundup quantize makes them",
        )
    chosen, config = FORMATS[format], _config(model)
    description = chosen.to_config(next(iter(layers.values())).scheme)
    family = select_family(config)
    tensors = _exported_tensors(model, layers, family, chosen, DTYPES[dtype])
    out.mkdir(parents=True, exist_ok=True)
    files = write_safetensors(tensors, out)
    return [*files, *write_config_files(config, tokenizer, out, dtype, {"quantization_config": description})]


def load_huggingface_quantized(folder: Path, device: torch.device | str = "cpu") -> nn.Module:
    """The model of a Hugging Face folder in one of the formats.

    Raises UserError for a format, a scheme or a family that we do not have, and for weights that are missing
    or misshaped.
    """
    fields = read_config(folder)
    described = fields["quantization_config"]
    if (method := described.get("quant_method")) not in FORMATS:
        raise UserError(f"{folder}: quant_method = {method!r}, expected one of {', '.join(FORMATS)}")
    if (kind := fields.get("model_type")) not in FAMILIES:
        raise UserError(
            f"{folder}: model_type = {kind!r} is not supported, expected one of {', '.join(FAMILIES)}"
        )
    chosen, family = FORMATS[method], FAMILIES[kind]
    source = _QuantizedSource(SafetensorsFolder(folder), chosen, chosen.scheme_from_config(described))
    config = family.read_config(fields, folder)
    model = build_meta_model(config, device)
    empty = {name: tensor.to("meta") for name, tensor in model.state_dict().items()}
    pairs = list(family.weight_map(config, list(empty)))
    check_tensors(
        expected_shapes(pairs, empty),
        source,
        (*family.ignored, *((family.head,) if config.tie_embeddings else ())),
    )
    _load_weights(model, pairs, source, device)
    return model.eval()


def _exported_tensors(
    model: nn.Module,
    layers: Mapping[str, QuantizedLinear],
    family: Family,
    chosen: QuantizedFormat,
    dtype: torch.dtype,
) -> Iterator[tuple[str, Tensor]]:
    weights = {name + WEIGHT_SUFFIX: layer.unpack_weight() for name, layer in layers.items()}
    own = tuple(f"{name}.{part}" for name in layers for part in ("packed", "scale", "zero"))
    plain = {name: tensor for name, tensor in model.state_dict().items() if name not in own}
    for pair in family.weight_map(_config(model), [*plain, *weights]):
        if pair.native[0] not in weights:
            theirs = pair.to_foreign([plain[name] for name in pair.native])
            yield from ((n, cast_floating(t, dtype).cpu()) for n, t in zip(pair.foreign, theirs, strict=True))
            continue
        found = _map_quantized(pair.to_foreign, [weights[name] for name in pair.native], pair)
        for name, weight in zip(pair.foreign, found, strict=True):
            parts = chosen.to_tensors(weight, dtype)
            yield from (
                (name.removesuffix(WEIGHT_SUFFIX) + f".{part}", tensor.cpu())
                for part, tensor in parts.items()
            )


def _load_weights(
    model: nn.Module, pairs: list[TensorMap], source: "_QuantizedSource", device: torch.device | str
) -> None:
    layers: dict[str, QuantizedWeight] = {}
    plain: dict[str, Tensor] = {}
    for pair in pairs:
        if all(name in source.quantized for name in pair.foreign):
            weights = _map_quantized(pair.to_native, [source.weight(name) for name in pair.foreign], pair)
            layers |= zip(pair.native, weights, strict=True)
        else:
            plain |= zip(
                pair.native, pair.to_native([source.read(name) for name in pair.foreign]), strict=True
            )
    model.load_state_dict(
        {name: tensor.to(device) for name, tensor in plain.items()}, assign=True, strict=False
    )
    made: dict[str, nn.Module] = {}
    for name, weight in layers.items():
        path = name.removesuffix(WEIGHT_SUFFIX)
        bias = plain.get(f"{path}.bias")
        made[path] = QuantizedLinear.from_weight(weight, bias).to(device)
    replace_modules(model, made)


def _map_quantized(change: Any, weights: list[QuantizedWeight], pair: TensorMap) -> list[QuantizedWeight]:
    """Codes, scales and zeros through a map that was written for plain weights."""
    scheme = weights[0].scheme
    codes, scales, zeros = (
        change([getattr(w, part) for w in weights]) for part in ("codes", "scale", "zero")
    )
    changed = [QuantizedWeight(*parts, scheme) for parts in zip(codes, scales, zeros, strict=True)]
    if any(w.scale.shape != (w.codes.shape[0], w.codes.shape[1] // scheme.group_size) for w in changed):
        raise UserError(
            f"{pair.native[0]}: this family keeps its matrices transposed, which quantized formats do not hold",
            hint="groups lie along the input; Llama-like families can be exported",
        )
    return changed


@dataclass
class _QuantizedSource:
    """A file with quantized layers, seen as if it held their plain weights."""

    file: SafetensorsFolder
    format: QuantizedFormat
    scheme: QuantizationScheme

    def __post_init__(self) -> None:
        self.path = self.file.path
        mark = f".{self.format.key_tensor}"
        layers = [name.removesuffix(mark) for name in self.file.shapes if name.endswith(mark)]
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
            self.shapes[name] = self.format.weight_shape(self.file.shapes[layer + mark], self.scheme)

    def read(self, name: str) -> Tensor:
        return self.file.read(name)

    def weight(self, name: str) -> QuantizedWeight:
        layer = self.quantized[name]
        try:
            return self.format.from_tensors(
                {part: self.file.read(f"{layer}.{part}") for part in self._parts[layer]}, self.scheme
            )
        except KeyError as error:
            raise UserError(
                f"{self.path}: {layer} has no tensor {error}, expected in {self.format.name} weights"
            ) from None


def _config(model: nn.Module) -> ModelConfig:
    return model.config  # type: ignore[return-value]
