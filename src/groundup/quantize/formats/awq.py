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
from groundup.quantize.formats.format import Format
from groundup.quantize.grid import QuantizedWeight, Scheme
from groundup.quantize.packing import pack, unpack

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight outputs stands in the i-th four bits: the order in which its GPU kernel takes them apart."""


def shape(stored: tuple[int, ...], scheme: Scheme) -> tuple[int, int]:
    return stored[1] * 8, stored[0]


def write(weight: QuantizedWeight, dtype: torch.dtype) -> dict[str, Tensor]:
    return {
        "qweight": pack(_shuffle(weight.codes.T, ORDER), 4, torch.int32),
        "qzeros": pack(_shuffle(weight.zero.T, ORDER), 4, torch.int32),
        "scales": weight.scale.T.contiguous(),
    }


def read(tensors: Mapping[str, Tensor], scheme: Scheme) -> QuantizedWeight:
    back = tuple(ORDER.index(place) for place in range(8))
    codes, zero = (_shuffle(unpack(tensors[name], 4), back).T.contiguous() for name in ("qweight", "qzeros"))
    return QuantizedWeight(codes, tensors["scales"].half().T.contiguous(), zero, scheme)


def _shuffle(codes: Tensor, order: tuple[int, ...]) -> Tensor:
    """The last dimension, eight at a time, in `order`."""
    if codes.shape[-1] % 8:
        raise UserError(f"an output width of {codes.shape[-1]}: the AWQ format needs a multiple of 8")
    return codes.unflatten(-1, (-1, 8))[..., list(order)].flatten(-2)


def describe(scheme: Scheme) -> dict[str, Any]:
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


def scheme(config: Mapping[str, Any]) -> Scheme:
    version = str(config.get("version", "gemm")).lower()
    bits, zeros = config.get("bits", 4), config.get("zero_point", True)
    if (version, bits, zeros) != ("gemm", 4, True) or config.get("group_size", -1) < 1:
        raise UserError(
            f"AWQ with version = {version!r}, bits = {bits}, zero_point = {zeros}; expected 'gemm', 4, true"
        )
    return Scheme(4, config["group_size"], symmetric=False)


AWQ = Format("awq", "qweight", shape, write, read, describe, scheme)
