"""GPTQ file format (AutoGPTQ's layout, read by transformers, vLLM and GPTQModel).

    qweight  int32 (in * bits / 32, out)      codes, packed down the input
    qzeros   int32 (groups, out * bits / 32)  zeros, packed along the output
    scales   float16 (groups, out)
    g_idx    int32 (in)                       group of each input; not sorted where `desc_act` was used

Two conventions of zeros: `checkpoint_format` gptq stores them minus one, gptq_v2 as they are. GPTQModel subtracts one from all
zeros of a word at once, so that a zero of 0 borrows from its neighbour: adding the same number restores them. Symmetric
grids are written as gptq, which every engine reads, others as gptq_v2. Bits, groups and symmetry of a layer are read from
its tensors: configurations leave them out, or give those of most layers.

Source: GPTQModel 7.6, utils/model.py (`convert_gptq_v1_to_v2_format_module`).
"""

from typing import Any

import torch
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.quantize.bit_packing import pack_codes, unpack_codes
from groundup.quantize.formats.quantized_format import Json, QuantizedFormat, Tensors, as_weight, find_group_size
from groundup.quantize.quantization_grid import QuantizationScheme, QuantizedWeight

BITS = (2, 3, 4, 8)
"""5 to 7 bits have a layout of their own, `gptq_p`."""


def weight_shape(tensors: Tensors, config: Json) -> tuple[int, int]:
    return tensors["scales"].shape[1], tensors["qweight"].shape[0] * 32 // _bits(tensors)


def _bits(tensors: Tensors) -> int:
    """From the words of zeros that a row of outputs takes."""
    (_, out), (_, words) = tensors["scales"].shape, tensors["qzeros"].shape
    bits = words * 32 // out if out else 0
    if bits not in BITS or bits * out != words * 32:
        raise UserError(
            f"qzeros of {words} words for {out} outputs, expected those of {', '.join(map(str, BITS))} bits"
        )
    return bits


def check_config(config: Json) -> None:
    if (found := _convention(config)) not in ("gptq", "gptq_v2"):
        raise UserError(f"GPTQ with checkpoint_format = {found!r}, expected 'gptq' or 'gptq_v2'")


def _convention(config: Json) -> str:
    return str(config.get("checkpoint_format") or config.get("format") or "gptq")


def from_tensors(tensors: Tensors, config: Json, layer: str) -> QuantizedWeight:
    bits = _bits(tensors)
    if not config.get("dynamic") and config.get("bits", bits) != bits:
        raise UserError(f"{layer}: tensors of {bits} bits, but bits = {config['bits']!r} in quantization_config")
    codes = unpack_codes(tensors["qweight"], bits, dim=0).T
    words = tensors["qzeros"]
    if _convention(config) == "gptq":
        zero = (
            unpack_codes(words + sum(1 << shift for shift in range(0, 31, bits)), bits)
            if 32 % bits == 0
            else (unpack_codes(words, bits) + 1) % 2**bits
        )
    else:
        zero = unpack_codes(words, bits)
    middle = 2 ** (bits - 1)
    if config.get("sym") is not False and abs(int(zero.min()) - middle) == 1 and (zero == zero[0, 0]).all():
        raise UserError(
            f"{layer}: all zeros are {int(zero[0, 0])}, expected {middle} where sym is not false",
            hint=f"checkpoint_format is {_convention(config)!r}: is it the other of 'gptq' and 'gptq_v2'?",
        )
    width, groups = codes.shape[1], tensors["scales"].shape[0]
    g_idx = tensors.get("g_idx")
    size = find_group_size(width, groups, config.get("group_size"))
    return as_weight(codes, tensors["scales"].T, zero.T, bits, size, g_idx)


def to_tensors(weight: QuantizedWeight, dtype: torch.dtype) -> dict[str, Tensor]:
    bits, scheme = weight.scheme.bits, weight.scheme
    zero = weight.zero.T.int() - (1 if scheme.symmetric else 0)
    index = scheme.group_index(weight.codes.shape[1]) if weight.g_idx is None else weight.g_idx
    return {
        "qweight": pack_codes(weight.codes.T, bits, torch.int32, dim=0),
        "qzeros": pack_codes(zero, bits, torch.int32),
        "scales": weight.scale.T.half().contiguous(),
        "g_idx": index.int(),
    }


def to_config(scheme: QuantizationScheme, floats: list[str], permuted: bool) -> dict[str, Any]:
    if scheme.bits not in BITS:
        raise UserError(
            f"quantized to {scheme.bits} bits, expected one of {', '.join(map(str, BITS))} for the GPTQ format",
            hint="use compressed-tensors",
        )
    return {
        "quant_method": "gptq",
        "checkpoint_format": "gptq" if scheme.symmetric else "gptq_v2",
        "bits": scheme.bits,
        "group_size": scheme.group_size,
        "sym": scheme.symmetric,
        "desc_act": permuted,
        "true_sequential": True,
        "lm_head": False,
        "meta": {"quantizer": ["gptqmodel:1.0.0"]},
        **({"modules_in_block_to_quantize": None, "dynamic": {f"-:^{name}$": {} for name in floats}} if floats else {}),
    }


GPTQ = QuantizedFormat("gptq", ("qweight",), weight_shape, from_tensors, check_config, to_tensors, to_config)
