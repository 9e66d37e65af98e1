"""compressed-tensors file format (LLM Compressor's, read by transformers and vLLM).

pack-quantized, which is written:

    weight_packed      int32 (out, in * bits / 32)      codes, packed along the input
    weight_scale       (out, groups)                    in the model's dtype
    weight_zero_point  int32 (out * bits / 32, groups)  zeros, packed down the output; asymmetric grids only
    weight_shape       int64 (2)                        out and in
    weight_g_idx       int32 (in)                       group of each input, where `actorder` is "group"; only read: vLLM and
                                                        compressed-tensors 0.19 refuse such files

int-quantized and naive-quantized: `weight` int8 (out in), `weight_scale` and `weight_zero_point` int8 (out groups), (out 1) or
(1); written for weights and inputs in 8 bits. float-quantized: `weight` float8 (out in) and `weight_scale` (out 1); written, and
read by interop/scaled_weights.py. Integer codes are signed; in words they have an offset of half their range, so that the bits
are those of unsigned codes. A word holds whole codes: ten of 3 bits. Inputs of 8 bits that are rounded token by token, as they
come, are so here too; others are computed in floating point, whatever `input_activations` says.
"""

import re
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from groundup.artifacts.errors import UserError
from groundup.quantize.bit_packing import pack_codes
from groundup.quantize.formats.quantized_format import Json, QuantizedFormat, Tensors, as_weight, find_group_size
from groundup.quantize.layers.int8_linear import INT8_INPUTS
from groundup.quantize.quantization_grid import WHOLE_ROW, QuantizationScheme, QuantizedWeight

INPUT_ACTIVATIONS = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
"""Of INT8_INPUTS."""
FORMATS = ("pack-quantized", "int-quantized", "naive-quantized", "mixed-precision")


def check_config(config: Json) -> None:
    groups = config.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        raise UserError(f"compressed-tensors with config_groups = {groups!r}, expected an object with a scheme")
    for name, group in groups.items():
        found = group.get("format") or config.get("format")
        weights = group.get("weights") or {}
        bits = weights.get("num_bits")
        if found not in FORMATS or weights.get("type") != "int" or type(bits) is not int or not 2 <= bits <= 8:
            raise UserError(
                f"compressed-tensors with format = {found!r}, type = {weights.get('type')!r} and num_bits = {bits!r} in "
                f"{name}; expected one of {', '.join(FORMATS)}, 'int' and 2 to 8"
            )
        if (sparsity := config.get("sparsity_config") or {}).get("format", "dense") != "dense":
            raise UserError(f"compressed-tensors with sparsity_config {sparsity['format']!r}, expected none")


def _arguments(config: Json, layer: str) -> dict[str, Any]:
    """The arguments of the weights of `layer`."""
    return _group(config, layer)["weights"]


def _group(config: Json, layer: str) -> dict[str, Any]:
    """The group that names `layer`, else the one of all linear layers; of its input activations the fields that matter."""
    group = dict(_named_group(config, layer))
    if isinstance(found := group.get("input_activations"), dict):
        group["input_activations"] = {name: found.get(name) for name in INPUT_ACTIVATIONS}
    return group


def _named_group(config: Json, layer: str) -> dict[str, Any]:
    groups = list(config["config_groups"].values())
    for group in groups:
        for target in group.get("targets") or ():
            pattern = target.removeprefix("re:") if target.startswith("re:") else re.escape(target)
            if re.match(pattern, layer) if target.startswith("re:") else re.search(rf"(^|\.){pattern}$", layer):
                return group
    return next((group for group in groups if "Linear" in (group.get("targets") or ())), groups[0])


def weight_shape(tensors: Tensors, config: Json) -> tuple[int, int]:
    out, width = tensors["weight_shape"].tolist() if "weight_packed" in tensors else tensors["weight"].shape
    return out, width


def from_tensors(tensors: Tensors, config: Json, layer: str) -> QuantizedWeight | Tensor:
    arguments = _arguments(config, layer)
    bits = arguments["num_bits"]
    half = 2 ** (bits - 1)
    scale = tensors["weight_scale"].float()
    zero = None
    if "weight_packed" in tensors:
        out, width = tensors["weight_shape"].tolist()
        codes = _unpack(tensors["weight_packed"], bits, -1)[:, :width]
        if codes.shape != (out, width):
            raise UserError(
                f"{layer}: {bits} bits, but weight_packed holds {tuple(codes.shape)} codes of {(out, width)}"
            )
        if "weight_zero_point" in tensors:
            zero = _unpack(tensors["weight_zero_point"], bits, 0)[:out]
    else:
        if tensors["weight"].dtype != torch.int8:
            raise UserError(f"{layer}: weight is {tensors['weight'].dtype}, expected int8")
        bits, half = 8, 128
        codes = (tensors["weight"].short() + half).to(torch.uint8)
        out, width = codes.shape
        if "weight_zero_point" in tensors:
            zero = (tensors["weight_zero_point"].short() + half).to(torch.uint8)
    scale = scale.reshape(-1, 1) if scale.numel() in (1, out) else scale
    scale = scale.expand(out, -1)
    if zero is None:
        if not arguments.get("symmetric", True):
            raise UserError(f"{layer}: no weight_zero_point, which asymmetric weights have")
        zero = torch.full(scale.shape, half, dtype=torch.uint8)
    zero = zero.reshape(-1, 1) if zero.numel() in (1, out) else zero
    zero = zero.expand(out, -1)
    if zero.shape != scale.shape:
        raise UserError(f"{layer}: zeros of shape {tuple(zero.shape)}, scales of shape {tuple(scale.shape)}")
    size = find_group_size(width, scale.shape[1], arguments.get("group_size"))
    weight = as_weight(codes, scale, zero, bits, size, tensors.get("weight_g_idx"))
    rounded_inputs = replace(weight.scheme, input_bits=8)
    if rounded_inputs == INT8_INPUTS and _group(config, layer).get("input_activations") == INPUT_ACTIVATIONS:
        return replace(weight, scheme=rounded_inputs)
    return weight


def _unpack(words: Tensor, bits: int, dim: int) -> Tensor:
    count = 32 // bits
    shifts = bits * torch.arange(count, dtype=torch.int32)
    codes = (words.movedim(dim, -1)[..., None] >> shifts) & (2**bits - 1)
    return codes.flatten(-2).to(torch.uint8).movedim(-1, dim)


def _pack(codes: Tensor, bits: int, dim: int) -> Tensor:
    """Whole codes in words, each in as many bits as 32 bits have room for; the last word may hold fewer."""
    count = 32 // bits
    codes = F.pad(codes.movedim(dim, -1), (0, -codes.shape[dim] % count))
    if 32 % bits == 0:
        return pack_codes(codes, bits, torch.int32).movedim(-1, dim).contiguous()
    shifts = bits * torch.arange(count)
    return (codes.long().unflatten(-1, (-1, count)) << shifts).sum(-1).int().movedim(-1, dim).contiguous()


def to_tensors(weight: QuantizedWeight, dtype: torch.dtype) -> dict[str, Tensor]:
    bits, scale = weight.scheme.bits, weight.scale.to(dtype).contiguous()
    if weight.scheme.values == "float8":
        return {"weight": weight.codes.view(torch.float8_e4m3fn), "weight_scale": scale}
    if weight.scheme.input_bits is not None:
        return {"weight": (weight.codes ^ weight.scheme.mid_code).view(torch.int8), "weight_scale": scale}
    tensors = {
        "weight_packed": _pack(weight.codes, bits, -1),
        "weight_scale": scale,
        "weight_shape": torch.tensor(weight.codes.shape, dtype=torch.int64),
    }
    if not weight.scheme.symmetric:
        tensors["weight_zero_point"] = _pack(weight.zero, bits, 0)
    return tensors


def to_config(scheme: QuantizationScheme, floats: list[str], permuted: bool) -> dict[str, Any]:
    if permuted:
        raise UserError("quantized with groups by g_idx, which vLLM and transformers no longer read in compressed-tensors form",
                        hint="--format gptq")  # fmt: skip
    whole, floating, inputs = scheme.group_size == WHOLE_ROW, scheme.values == "float8", scheme.input_bits is not None
    weights = {
        "num_bits": scheme.bits,
        "type": "float" if floating else "int",
        "symmetric": scheme.symmetric,
        "strategy": "channel" if whole else "group",
        "group_size": None if whole else scheme.group_size,
        "dynamic": False,
        "actorder": None,
    }
    activations = INPUT_ACTIVATIONS if inputs else None
    group = {"targets": ["Linear"], "weights": weights, "input_activations": activations, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized" if floating else "int-quantized" if inputs else "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head", *floats],
        "kv_cache_scheme": None,
    }


COMPRESSED_TENSORS = QuantizedFormat(
    "compressed-tensors",
    ("weight_packed", "weight_scale"),
    weight_shape,
    from_tensors,
    check_config,
    to_tensors,
    to_config,
)
