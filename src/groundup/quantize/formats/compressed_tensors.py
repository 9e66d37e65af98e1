"""compressed-tensors' "pack-quantized" layout, as LLM Compressor writes it and transformers and vLLM read it.

    weight_packed      int32 (out, in * bits / 32)      codes, packed along the input
    weight_scale       (out, groups)                    in the model's dtype
    weight_zero_point  int32 (out * bits / 32, groups)  zeros, packed down the output; asymmetric grids only
    weight_shape       int64 (2)                        out and in

Its codes are signed and stored plus half of the range: the same bits as our unsigned ones.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.quantize.formats.format import Format
from groundup.quantize.grid import QuantizedWeight, Scheme
from groundup.quantize.packing import pack, unpack


def shape(stored: tuple[int, ...], scheme: Scheme) -> tuple[int, int]:
    return stored[0], stored[1] * 32 // scheme.bits


def write(weight: QuantizedWeight, dtype: torch.dtype) -> dict[str, Tensor]:
    bits = weight.scheme.bits
    tensors = {
        "weight_packed": pack(weight.codes, bits, torch.int32),
        "weight_scale": weight.scale.to(dtype).contiguous(),
        "weight_shape": torch.tensor(weight.codes.shape, dtype=torch.int64),
    }
    if not weight.scheme.symmetric:
        tensors["weight_zero_point"] = pack(weight.zero, bits, torch.int32, dim=0)
    return tensors


def read(tensors: Mapping[str, Tensor], scheme: Scheme) -> QuantizedWeight:
    if "weight_g_idx" in tensors:
        raise UserError("compressed-tensors in activation order (weight_g_idx) is not supported")
    out_features, in_features = tensors["weight_shape"].tolist()
    codes = unpack(tensors["weight_packed"], scheme.bits)[:, :in_features]
    scale = tensors["weight_scale"].half()
    zero = torch.full(scale.shape, scheme.middle, dtype=torch.uint8)
    if not scheme.symmetric:
        zero = unpack(tensors["weight_zero_point"], scheme.bits, dim=0)[:out_features]
    return QuantizedWeight(codes.contiguous(), scale.contiguous(), zero.contiguous(), scheme)


def describe(scheme: Scheme) -> dict[str, Any]:
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


def scheme(config: Mapping[str, Any]) -> Scheme:
    groups = list(config.get("config_groups", {}).values())
    weights = groups[0].get("weights") if len(groups) == 1 else None
    wanted = {"type": "int", "strategy": "group"}
    if (
        config.get("format") != "pack-quantized"
        or not weights
        or any(weights.get(k) != v for k, v in wanted.items())
    ):
        raise UserError(
            f"compressed-tensors with format = {config.get('format')!r} and {len(groups)} group(s); "
            "expected pack-quantized with one group of int weights and strategy = group"
        )
    if weights["num_bits"] not in (4, 8) or groups[0].get("input_activations"):
        raise UserError(
            f"compressed-tensors with num_bits = {weights['num_bits']}, expected 4 or 8, with plain inputs"
        )
    return Scheme(weights["num_bits"], weights["group_size"], weights["symmetric"])


COMPRESSED_TENSORS = Format("compressed-tensors", "weight_packed", shape, write, read, describe, scheme)
