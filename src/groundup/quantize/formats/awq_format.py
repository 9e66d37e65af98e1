"""AWQ's layout ("gemm"), as AutoAWQ made it common and transformers and vLLM read it. 4 bits, with zeros.

    qweight  int32 (in, out / 8)      codes, packed along the output, eight outputs a word in the order of
    ORDER qzeros   int32 (groups, out / 8)  zeros, in the same order scales   float16 (groups, out)

A symmetric grid is written with its zero in the middle: the same numbers.
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
"""Which of eight outputs stands in the i-th four bits: the order in which its GPU kernel takes them apart."""


def weight_shape(stored: tuple[int, ...], scheme: QuantizationScheme) -> tuple[int, int]:
    return stored[1] * 8, stored[0]


def to_tensors(weight: QuantizedWeight, dtype: torch.dtype) -> dict[str, Tensor]:
    return {
        "qweight": pack_codes(_interleave(weight.codes.T, INTERLEAVE_ORDER), 4, torch.int32),
        "qzeros": pack_codes(_interleave(weight.zero.T, INTERLEAVE_ORDER), 4, torch.int32),
        "scales": weight.scale.T.contiguous(),
    }


def from_tensors(tensors: Mapping[str, Tensor], scheme: QuantizationScheme) -> QuantizedWeight:
    back = tuple(INTERLEAVE_ORDER.index(place) for place in range(8))
    codes, zero = (
        _interleave(unpack_codes(tensors[name], 4), back).T.contiguous() for name in ("qweight", "qzeros")
    )
    return QuantizedWeight(codes, tensors["scales"].half().T.contiguous(), zero, scheme)


def _interleave(codes: Tensor, order: tuple[int, ...]) -> Tensor:
    """The last dimension, eight at a time, in `order`."""
    if codes.shape[-1] % 8:
        raise UserError(f"an output width of {codes.shape[-1]}: the AWQ format needs a multiple of 8")
    return codes.unflatten(-1, (-1, 8))[..., list(order)].flatten(-2)


def to_config(scheme: QuantizationScheme) -> dict[str, Any]:
    if scheme.bits != 4:
        raise UserError(
            f"the AWQ format holds 4 bits, and the model has {scheme.bits}",
            hint="use gptq or compressed-tensors",
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
