"""GPTQ file format (AutoGPTQ's layout, read by transformers, vLLM and GPTQModel).

    qweight  int32 (in * bits / 32, out)      codes, packed down the input
    qzeros   int32 (groups, out * bits / 32)  zeros minus one, packed along the output
    scales   float16 (groups, out)
    g_idx    int32 (in)                       group of each input

Only symmetric grids are written: a zero of 0 has no code (0 - 1), and engines refuse asymmetric files.
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
    return stored[1], stored[0] * 32 // scheme.bits


def to_tensors(weight: QuantizedWeight, dtype: torch.dtype) -> dict[str, Tensor]:
    bits, width = weight.scheme.bits, weight.codes.shape[1]
    return {
        "qweight": pack_codes(weight.codes.T, bits, torch.int32, dim=0),
        "qzeros": pack_codes(weight.zero.T.int() - 1, bits, torch.int32),
        "scales": weight.scale.T.contiguous(),
        "g_idx": torch.arange(width, dtype=torch.int32) // weight.scheme.group_size,
    }


def from_tensors(tensors: Mapping[str, Tensor], scheme: QuantizationScheme) -> QuantizedWeight:
    codes = unpack_codes(tensors["qweight"], scheme.bits, dim=0).T.contiguous()
    groups = torch.arange(codes.shape[1]) // scheme.group_size
    if "g_idx" in tensors and not torch.equal(tensors["g_idx"].long(), groups):
        raise UserError(
            "GPTQ weights in activation order (g_idx is not sorted) are not supported", hint="desc_act = false"
        )
    zero = (unpack_codes(tensors["qzeros"], scheme.bits) + 1).T.contiguous()
    return QuantizedWeight(codes, tensors["scales"].half().T.contiguous(), zero, scheme)


def to_config(scheme: QuantizationScheme) -> dict[str, Any]:
    if not scheme.symmetric:
        raise UserError(
            "quantized with an asymmetric grid, expected a symmetric one for the GPTQ format",
            hint="quantize.symmetric = true, or AWQ",
        )
    return {
        "quant_method": "gptq",
        "checkpoint_format": "gptq",
        "bits": scheme.bits,
        "group_size": scheme.group_size,
        "sym": True,
        "desc_act": False,
        "true_sequential": True,
        "lm_head": False,
    }


def scheme_from_config(config: Mapping[str, Any]) -> QuantizationScheme:
    if (
        config.get("checkpoint_format", "gptq") != "gptq"
        or not config.get("sym", True)
        or config.get("group_size", -1) < 1
        or "bits" not in config
    ):
        raise UserError(
            f"GPTQ with checkpoint_format = {config.get('checkpoint_format')!r}, sym = {config.get('sym')}, "
            f"group_size = {config.get('group_size')}, bits = {config.get('bits')}; expected 'gptq', true, and whole "
            "numbers above 0"
        )
    return QuantizationScheme(config["bits"], config["group_size"], symmetric=True)


GPTQ = QuantizedFormat("gptq", "qweight", weight_shape, to_tensors, from_tensors, to_config, scheme_from_config)
