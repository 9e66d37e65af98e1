"""AWQ file format ("gemm" layout of AutoAWQ, read by transformers and vLLM): 4 bits, with zeros.

    qweight  int32 (in, out / 8)      codes, packed along the output, eight a word in INTERLEAVE_ORDER
    qzeros   int32 (groups, out / 8)  zeros, in the same order
    scales   float16 (groups, out)

Symmetric grids are written with an explicit zero in the middle.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.quantize.bit_packing import pack_codes, unpack_codes
from groundup.quantize.formats.quantized_format import QuantizedFormat
from groundup.quantize.quantization_grid import QuantizationScheme, QuantizedWeight

INTERLEAVE_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Index of the output in the i-th four bits of a word, as AWQ's GPU kernel unpacks them."""


def weight_shape(stored: tuple[int, ...], scheme: QuantizationScheme) -> tuple[int, int]:
    return stored[1] * 8, stored[0]


def to_tensors(weight: QuantizedWeight, dtype: torch.dtype) -> dict[str, Tensor]:
    return {
        "qweight": pack_codes(_interleave(weight.codes.T, INTERLEAVE_ORDER), 4, torch.int32),
        "qzeros": pack_codes(_interleave(weight.zero.T, INTERLEAVE_ORDER), 4, torch.int32),
        "scales": weight.scale.T.contiguous(),
    }


def from_tensors(tensors: Mapping[str, Tensor], scheme: QuantizationScheme) -> QuantizedWeight:
    inverse = tuple(INTERLEAVE_ORDER.index(index) for index in range(8))
    codes, zero = (
        _interleave(unpack_codes(tensors[name], 4), inverse).T.contiguous() for name in ("qweight", "qzeros")
    )
    return QuantizedWeight(codes, tensors["scales"].half().T.contiguous(), zero, scheme)


def _interleave(codes: Tensor, order: tuple[int, ...]) -> Tensor:
    """Reorder each eight elements of the last dimension."""
    if codes.shape[-1] % 8:
        raise UserError(f"output width {codes.shape[-1]}, expected a multiple of 8 for the AWQ format")
    return codes.unflatten(-1, (-1, 8))[..., list(order)].flatten(-2)


def to_config(scheme: QuantizationScheme) -> dict[str, Any]:
    if scheme.bits != 4:
        raise UserError(
            f"quantized to {scheme.bits} bits, expected 4 for the AWQ format", hint="use gptq or compressed-tensors"
        )
    return {
        "quant_method": "awq",
        "version": "gemm",
        "bits": 4,
        "group_size": scheme.group_size,
        "zero_point": True,
        "modules_to_not_convert": ["lm_head"],
    }


def scheme_from_config(config: Mapping[str, Any]) -> QuantizationScheme:
    version = str(config.get("version", "gemm")).lower()
    bits, zeros = config.get("bits", 4), config.get("zero_point", True)
    if (version, bits, zeros) != ("gemm", 4, True) or config.get("group_size", -1) < 1:
        raise UserError(
            f"AWQ with version = {version!r}, bits = {bits}, zero_point = {zeros}; expected 'gemm', 4, true"
        )
    return QuantizationScheme(4, config["group_size"], symmetric=False)


AWQ = QuantizedFormat("awq", "qweight", weight_shape, to_tensors, from_tensors, to_config, scheme_from_config)
