"""Hugging Face folders with quantized weights: export and import.

Codes, scales and zeros go through interop's weight maps for float weights: the supported maps only rename, stack or
split matrices along the output.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import gcd
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.json_file import shorten
from groundup.interop.families.select_family import select_family
from groundup.interop.fold_scales import fold_scales
from groundup.interop.huggingface_model import DTYPES, open_folder, read_config, write_config_files
from groundup.interop.safetensors_files import cast_floating, write_safetensors
from groundup.interop.weight_map import TensorMap, check_tensors, expected_shapes
from groundup.model import build_meta_model
from groundup.model.moe import Experts
from groundup.quantize.formats import FORMATS
from groundup.quantize.formats.mapped_weights import map_packed
from groundup.quantize.formats.packed_source import WEIGHT_SUFFIX, PackedSource, multiply_out
from groundup.quantize.formats.quantized_format import PackedWeight, QuantizedFormat
from groundup.quantize.layers.nf4 import NF4Weight
from groundup.quantize.layers.packed_layers import make_layer
from groundup.quantize.layers.quantized_experts import QuantizedExperts
from groundup.quantize.layers.quantized_linear import QuantizedLinear, quantized_layers
from groundup.quantize.quantization_grid import WHOLE_ROW, QuantizedWeight, integer_scheme
from groundup.tokenizer import Tokenizer

ARCHITECTURE_FORMATS = {"decoder": tuple(FORMATS), "encoder": ("gptq", "awq"), "encoder_decoder": ()}
"""What transformers opens. It initializes BERT and T5 by the `weight` of layers, which packed ones of compressed-tensors lack, as
T5's lack with gptq and awq."""


def export_huggingface_quantized(
    model: nn.Module, tokenizer: Tokenizer | None, out: Path, *, format: str, dtype: str
) -> list[Path]:
    """Write a quantized model as a Hugging Face folder. Returns the files written.

    Args:
        format: gptq, awq or compressed-tensors.
        dtype: of float tensors, and of compressed-tensors' scales, which are exact in float32 and float16.

    Raises UserError for a model that is not quantized, or that the format or no known family can represent.
    """
    if not quantized_layers(model):
        raise UserError(
            f"the model has no quantized layers, which format {format} needs", hint="groundup quantize it first"
        )
    file_format = FORMATS[format]
    config, tensors = fold_scales(model)
    if format not in ARCHITECTURE_FORMATS[config.architecture]:
        raise UserError(
            f"an {config.architecture.replace('_', '-')} in {format} format, which transformers does not open",
            hint="export the float model: --format bitsandbytes, or gguf --dtype q4_k_m",
        )
    floats, weights = _native_tensors(model, tensors)
    weights = _one_scheme(weights)
    family = select_family(config)
    tensor_maps = list(family.weight_map(config, [*floats, *weights]))
    some = next(iter(weights.values()))
    if format != "compressed-tensors" and some.scheme != integer_scheme(some.scheme):
        what = "weights in float8" if some.scheme.values == "float8" else "inputs in 8 bits"
        raise UserError(f"{what}, which the {format} format has no form for", hint="--format compressed-tensors")
    permuted = any(weight.g_idx is not None for weight in weights.values())
    description = file_format.to_config(some.scheme, _float_layers(model, weights, tensor_maps), permuted)
    if config.architecture == "encoder" and format == "gptq":  # optimum finds the blocks of decoders alone
        first = next(each.foreign[0] for each in tensor_maps if each.native[0] in weights)
        description["block_name_to_quantize"] = first.partition(".0.")[0]
    out.mkdir(parents=True, exist_ok=True)
    files = write_safetensors(_exported_tensors(floats, weights, tensor_maps, file_format, DTYPES[dtype]), out)
    return [*files, *write_config_files(config, tokenizer, out, dtype, {"quantization_config": description})]


def load_huggingface_quantized(folder: Path, device: torch.device | str = "cpu") -> nn.Module:
    """The model of a Hugging Face folder with quantized weights.

    Raises UserError for an unsupported format, scheme or family, and for missing or misshaped weights.
    """
    described = read_config(folder).get("quantization_config")
    if not isinstance(described, dict):
        raise UserError(f"{folder}: quantization_config = {shorten(described)}, expected an object")
    if (method := str(described.get("quant_method"))) not in FORMATS:
        raise UserError(f"{folder}: quant_method = {method!r}, expected one of {', '.join(FORMATS)}")
    family, config, opened, ignored = open_folder(
        folder, unpack=lambda files: PackedSource(files, FORMATS[method], described)
    )
    assert isinstance(opened, PackedSource)
    model = build_meta_model(config, device).requires_grad_(False)
    empty = {name: tensor.to("meta") for name, tensor in model.state_dict().items()}
    tensor_maps = list(family.weight_map(config, list(empty)))
    expected = expected_shapes(tensor_maps, empty)
    for name in opened.quantized:
        if name in expected and opened.shapes[name] == expected[name][::-1] != expected[name]:
            raise UserError(f"{folder}: {name}: {family.name} stores transposed matrices, which are not read quantized")
    check_tensors(expected, opened, (*family.ignored_tensors(config), *ignored))
    _load_weights(model, tensor_maps, opened, device)
    return model.eval().requires_grad_(False)


def _native_tensors(
    model: nn.Module, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, QuantizedWeight]]:
    """Float tensors and quantized weights by the names of a model without packed layers; experts stacked."""
    layers = quantized_layers(model)
    packed = tuple(f"{name}.{part}" for name in layers for part in ("packed", "scale", "zero", "g_idx"))
    floats = {name: tensor for name, tensor in tensors.items() if name not in packed}
    weights = {name + WEIGHT_SUFFIX: layer.unpack_weight() for name, layer in layers.items()}
    for path, experts in list(model.named_modules()):
        if not isinstance(experts, QuantizedExperts):
            continue
        for name in ("gate", "up", "down"):
            stem = f"{path}.{name}_proj"
            names = [f"{stem}.{number}" for number in range(len(getattr(experts, f"{name}_proj")))]
            if all(expert + WEIGHT_SUFFIX in weights for expert in names):
                weights[stem] = _stack([weights.pop(expert + WEIGHT_SUFFIX) for expert in names])
            else:
                matrices = [weights.pop(expert + WEIGHT_SUFFIX, None) for expert in names]
                floats[stem] = torch.stack(
                    [
                        floats.pop(expert + WEIGHT_SUFFIX) if matrix is None else matrix.dequantize()
                        for expert, matrix in zip(names, matrices, strict=True)
                    ]
                )
            if f"{names[0]}.bias" in floats:
                floats[f"{path}.{name}_bias"] = torch.stack([floats.pop(f"{expert}.bias") for expert in names])
    return floats, weights


def _stack(weights: list[QuantizedWeight]) -> QuantizedWeight:
    """The matrices of experts as one weight with a first dimension more."""
    stacked = map_packed(lambda parts: [torch.stack(parts)], weights)
    if stacked is None:
        raise UserError("experts of one layer with different schemes, which quantized formats do not support")
    return stacked[0]


def _one_scheme(weights: Mapping[str, QuantizedWeight]) -> dict[str, QuantizedWeight]:
    """The weights with one group size, which these files have: the largest that divides all groups.

    Raises UserError for layers of different bits or symmetry.
    """
    schemes = {weight.scheme for weight in weights.values()}
    if len({(scheme.bits, scheme.symmetric) for scheme in schemes}) > 1:
        raise UserError(
            f"layers of {len(schemes)} schemes, expected one number of bits and one symmetry for this format",
            hint="groundup export --format gguf or huggingface",
        )
    whole = all(scheme.group_size == WHOLE_ROW for scheme in schemes)
    if whole or any(weight.g_idx is not None for weight in weights.values()):
        return dict(weights)
    widths = [
        (weight.codes.shape[-1], weight.scheme.group_width(weight.codes.shape[-1])) for weight in weights.values()
    ]
    size = gcd(*(number for pair in widths for number in pair))
    return {name: _regrouped(weight, size) for name, weight in weights.items()}


def _regrouped(weight: QuantizedWeight, size: int) -> QuantizedWeight:
    width = weight.codes.shape[-1]
    index = torch.arange(0, width, size) // weight.scheme.group_width(width)
    scheme = replace(weight.scheme, group_size=size)
    return QuantizedWeight(weight.codes, weight.scale[..., index], weight.zero[..., index], scheme)


def _float_layers(model: nn.Module, weights: Mapping[str, QuantizedWeight], tensor_maps: list[TensorMap]) -> list[str]:
    """Foreign names of linear layers that are not quantized: routers, and heads of encoders."""
    linears = {name for name, module in model.named_modules() if isinstance(module, nn.Linear | QuantizedLinear)}
    return [
        foreign.removesuffix(WEIGHT_SUFFIX)
        for tensor_map in tensor_maps
        if (name := tensor_map.native[0]) not in weights
        and name.endswith(WEIGHT_SUFFIX)
        and name.removesuffix(WEIGHT_SUFFIX) in linears
        for foreign in tensor_map.foreign
    ]


def _exported_tensors(
    floats: Mapping[str, Tensor],
    weights: Mapping[str, QuantizedWeight],
    tensor_maps: list[TensorMap],
    file_format: QuantizedFormat,
    dtype: torch.dtype,
) -> Iterator[tuple[str, Tensor]]:
    for tensor_map in tensor_maps:
        if tensor_map.native[0] not in weights:
            tensors = tensor_map.to_foreign([floats[name] for name in tensor_map.native])
            yield from ((n, cast_floating(t, dtype).cpu()) for n, t in zip(tensor_map.foreign, tensors, strict=True))
            continue
        mapped = map_packed(tensor_map.to_foreign, [weights[name] for name in tensor_map.native])
        if mapped is None or any(weight.codes.ndim != 2 for weight in mapped):
            raise UserError(
                f"{tensor_map.native[0]}: this family stores transposed matrices or experts in one, which quantized formats "
                "do not support",
                hint="Llama-like families and mixtures with separate experts can be exported",
            )
        for name, weight in zip(tensor_map.foreign, mapped, strict=True):
            parts = file_format.to_tensors(weight, dtype)
            yield from ((name.removesuffix(WEIGHT_SUFFIX) + f".{part}", tensor.cpu()) for part, tensor in parts.items())


def _load_weights(
    model: nn.Module, tensor_maps: list[TensorMap], source: PackedSource, device: torch.device | str
) -> None:
    layers: dict[str, PackedWeight] = {}
    floats: dict[str, Tensor] = {}
    for tensor_map in tensor_maps:
        packed = [name for name in tensor_map.foreign if name in source.quantized]
        weights = [source.weight(name) for name in packed] if len(packed) == len(tensor_map.foreign) else []
        mapped = _mapped(model, tensor_map, weights) if weights else None
        if mapped is not None:
            layers |= mapped
            continue
        tensors = [multiply_out(weight) for weight in weights] or [source.read(name) for name in tensor_map.foreign]
        floats |= zip(tensor_map.native, tensor_map.to_native(tensors), strict=True)
    model.load_state_dict({name: tensor.to(device) for name, tensor in floats.items()}, assign=True, strict=False)
    for path, module in list(model.named_modules()):
        if type(module) is Experts and any(name.startswith(f"{path}.") for name in layers):
            model.set_submodule(path, QuantizedExperts(module))
    for path, weight in layers.items():
        linear: Any = model.get_submodule(path)
        bias = floats.get(f"{path}.bias", linear.bias)
        assert not isinstance(weight, Tensor)
        model.set_submodule(path, make_layer(weight, bias).to(device))


def _mapped(model: nn.Module, tensor_map: TensorMap, weights: list[PackedWeight]) -> dict[str, PackedWeight] | None:
    """Packed weights by the layers that keep them; None: no layers do, and they are multiplied out."""
    if isinstance(weights[0], NF4Weight):
        path = tensor_map.native[0].removesuffix(WEIGHT_SUFFIX)
        same = tensor_map.to_native is list and _is_linear(model, tensor_map.native[0])
        return {path: weights[0]} if same else None
    if not all(isinstance(weight, QuantizedWeight) for weight in weights):
        return None
    mapped = map_packed(tensor_map.to_native, weights)  # type: ignore[arg-type]
    if mapped is None:
        return None
    layers: dict[str, PackedWeight] = {}
    for name, weight in zip(tensor_map.native, mapped, strict=True):
        if weight.codes.ndim == 2:
            if not _is_linear(model, name):
                return None
            layers[name.removesuffix(WEIGHT_SUFFIX)] = weight
            continue
        if type(model.get_submodule(name.rpartition(".")[0])) is not Experts:
            return None
        for number, parts in enumerate(zip(weight.codes, weight.scale, weight.zero, strict=True)):
            g_idx = None if weight.g_idx is None else weight.g_idx[number]
            layers[f"{name}.{number}"] = QuantizedWeight(*parts, weight.scheme, g_idx)
    return layers


def _is_linear(model: nn.Module, name: str) -> bool:
    """Whether `name` is the weight of a plain linear layer."""
    path, _, last = name.rpartition(".")
    return last == "weight" and type(model.get_submodule(path)) is nn.Linear
