"""compressed-tensors file format ("pack-quantized" layout of LLM Compressor, read by transformers and vLLM).

    weight_packed      int32 (out, in * bits / 32)      codes, packed along the input
    weight_scale       (out, groups)                    in the model's dtype
    weight_zero_point  int32 (out * bits / 32, groups)  zeros, packed down the output; asymmetric grids only
    weight_shape       int64 (2)                        out and in

Codes are signed and stored with an offset of half the range: the same bits as unsigned codes.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.quantize.bit_packing import pack_codes, unpack_codes
from groundup.quantize.formats.quantized_format import QuantizedFormat
from groundup.quantize.quantization_grid import QuantizationScheme, QuantizedWeight


def weight_shape(stored: tuple[int, ...], scheme: QuantizationScheme) -> tuple[int, int]:
    return stored[0], stored[1] * 32 // scheme.bits


def to_tensors(weight: QuantizedWeight, dtype: torch.dtype) -> dict[str, Tensor]:
    bits = weight.scheme.bits
    tensors = {
        "weight_packed": pack_codes(weight.codes, bits, torch.int32),
        "weight_scale": weight.scale.to(dtype).contiguous(),
        "weight_shape": torch.tensor(weight.codes.shape, dtype=torch.int64),
    }
    if not weight.scheme.symmetric:
        tensors["weight_zero_point"] = pack_codes(weight.zero, bits, torch.int32, dim=0)
    return tensors


def from_tensors(tensors: Mapping[str, Tensor], scheme: QuantizationScheme) -> QuantizedWeight:
    if "weight_g_idx" in tensors:
        raise UserError("compressed-tensors in activation order (weight_g_idx) is not supported")
    out_features, in_features = tensors["weight_shape"].tolist()
    codes = unpack_codes(tensors["weight_packed"], scheme.bits)[:, :in_features]
    scale = tensors["weight_scale"].half()
    zero = torch.full(scale.shape, scheme.mid_code, dtype=torch.uint8)
    if not scheme.symmetric:
        zero = unpack_codes(tensors["weight_zero_point"], scheme.bits, dim=0)[:out_features]
    return QuantizedWeight(codes.contiguous(), scale.contiguous(), zero.contiguous(), scheme)


def to_config(scheme: QuantizationScheme) -> dict[str, Any]:
    weights = {
        "num_bits": scheme.bits,
        "type": "int",
        "symmetric": scheme.symmetric,
        "strategy": "group",
        "group_size": scheme.group_size,
        "dynamic": False,
    }
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
    }


def scheme_from_config(config: Mapping[str, Any]) -> QuantizationScheme:
    groups = list(config.get("config_groups", {}).values())
    weights = groups[0].get("weights") if len(groups) == 1 else None
    required = {"type": "int", "strategy": "group"}
    if config.get("format") != "pack-quantized" or not weights or any(weights.get(k) != v for k, v in required.items()):
        raise UserError(
            f"compressed-tensors with format = {config.get('format')!r} and {len(groups)} group(s); "
            "expected pack-quantized with one group of int weights and strategy = group"
        )
    if weights["num_bits"] not in (4, 8) or groups[0].get("input_activations"):
        raise UserError(
            f"compressed-tensors with num_bits = {weights['num_bits']}, expected 4 or 8, without quantized activations"
        )
    return QuantizationScheme(weights["num_bits"], weights["group_size"], weights["symmetric"])


COMPRESSED_TENSORS = QuantizedFormat(
    "compressed-tensors", "weight_packed", weight_shape, to_tensors, from_tensors, to_config, scheme_from_config
)
