"""bitsandbytes file format (transformers' `load_in_4bit` and `load_in_8bit`), read and, for NF4, written.

NF4 with double quantization, the form of layers/nf4.py:

    weight                                     uint8 (out * in / 2, 1)   two codes in a byte
    weight.absmax                              uint8 (blocks)            codes of the scales
    weight.nested_absmax                       float32 (blocks / 256)    scales of the scales
    weight.quant_map, weight.nested_quant_map  float32 (16), (256)       the values of both
    weight.quant_state.bitsandbytes__nf4       uint8                     JSON: shape, dtype, block sizes, mean of the scales

Without double quantization the scales are float32; these weights, and those in FP4, are multiplied out. 8 bits (LLM.int8):
`weight` int8 (out in) and `SCB` float32 (out), the largest magnitude of a row, which is code 127.

Sources: Dettmers et al. 2022, "LLM.int8()", section 2.1; bitsandbytes 0.50, functional.py (`QuantState`).
"""

import json
from typing import Any

import torch
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.quantize.formats.quantized_format import Json, PackedWeight, QuantizedFormat, Tensors
from groundup.quantize.layers.nf4 import BLOCK, SCALE_BLOCK, NF4Weight, dynamic_values, nf4_values
from groundup.quantize.quantization_grid import QuantizationScheme, QuantizedWeight

STATES = ("weight.quant_state.bitsandbytes__nf4", "weight.quant_state.bitsandbytes__fp4")
NF4_CONFIG = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "load_in_8bit": False,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_quant_storage": "uint8",
    "bnb_4bit_compute_dtype": "bfloat16",
}


def check_config(config: Json) -> None:
    if (storage := config.get("bnb_4bit_quant_storage", "uint8")) != "uint8":
        raise UserError(f"bitsandbytes with bnb_4bit_quant_storage = {storage!r}, expected 'uint8'")


def weight_shape(tensors: Tensors, config: Json) -> tuple[int, int]:
    out, width = tensors["weight"].shape if "SCB" in tensors else _state(tensors)["shape"]
    return out, width


def _state(tensors: Tensors) -> dict[str, Any]:
    stored = next(tensors[name] for name in STATES if name in tensors)
    return json.loads(bytes(stored.tolist()))


def from_tensors(tensors: Tensors, config: Json, layer: str) -> PackedWeight:
    weight = tensors["weight"]
    if "SCB" in tensors:
        if weight.dtype != torch.int8 or tensors.get("weight_format", torch.zeros(())).item() != 0:
            raise UserError(f"{layer}: bitsandbytes 8 bits in {weight.dtype} or not by rows, expected int8 (out in)")
        return weight.float() * (tensors["SCB"].float()[:, None] / 127)
    state, absmax = _state(tensors), tensors["weight.absmax"]
    values, (out, width) = tensors["weight.quant_map"].float(), state["shape"]
    codes = weight.flatten()
    if codes.numel() * 2 != out * width:
        raise UserError(f"{layer}: {codes.numel()} bytes of codes, expected {out * width // 2}")
    if "weight.nested_absmax" in tensors:
        nested, scale_values = tensors["weight.nested_absmax"].float(), tensors["weight.nested_quant_map"].float()
        mean = torch.tensor(float(state["nested_offset"]))
        sizes = state["blocksize"], state["nested_blocksize"]
        if sizes == (BLOCK, SCALE_BLOCK) and _equal(values, nf4_values()) and _equal(scale_values, dynamic_values()):
            return NF4Weight(codes, absmax, nested, mean, (out, width))
        factors = nested.repeat_interleave(state["nested_blocksize"])[: absmax.numel()]
        absmax = scale_values[absmax.int()] * factors + mean
    pairs = torch.stack((values[(codes >> 4).int()], values[(codes & 15).int()]), dim=-1).flatten()
    factors = absmax.float().repeat_interleave(state["blocksize"])[: pairs.numel()]
    return (pairs * factors).view(out, width)


def _equal(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and bool(((found - expected).abs() < 1e-6).all())


def nf4_tensors(weight: NF4Weight, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of a layer whose products are computed in `dtype`."""
    state = {
        "quant_type": "nf4",
        "blocksize": BLOCK,
        "dtype": str(dtype).removeprefix("torch."),
        "shape": list(weight.shape),
        "nested_blocksize": SCALE_BLOCK,
        "nested_dtype": "float32",
        "nested_offset": weight.mean.item(),
    }
    return {
        "weight": weight.codes.view(-1, 1),
        "weight.absmax": weight.scale_codes,
        "weight.nested_absmax": weight.scale_of_scales,
        "weight.quant_map": nf4_values().clone(),
        "weight.nested_quant_map": dynamic_values().clone(),
        STATES[0]: torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8),
    }


def to_tensors(weight: QuantizedWeight, dtype: torch.dtype) -> dict[str, Tensor]:
    raise UserError("integer codes, which the bitsandbytes format has no form for")


def to_config(scheme: QuantizationScheme, floats: list[str], permuted: bool) -> dict[str, Any]:
    raise UserError("integer codes, which the bitsandbytes format has no form for")


BITSANDBYTES = QuantizedFormat(
    "bitsandbytes", ("SCB", *STATES), weight_shape, from_tensors, check_config, to_tensors, to_config
)
