"""Interface of a quantized file format: conversion of a layer's tensors and of the model's description."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.quantize.layers.nf4 import NF4Weight
from groundup.quantize.quantization_grid import WHOLE_ROW, QuantizationScheme, QuantizedWeight

Tensors = Mapping[str, Tensor]
Json = Mapping[str, Any]
PackedWeight = QuantizedWeight | NF4Weight | Tensor
"""A weight as a layer keeps it; a tensor where no layer keeps its form, multiplied out."""


@dataclass(frozen=True)
class QuantizedFormat:
    """A file format of other software.

    Attributes:
        name: `quant_method` in config.json.
        keys: last names of tensors that every quantized layer has one of, and no other layer.
        weight_shape: a layer's tensors by last name, `quantization_config` -> (out, in) of the weight.
        from_tensors: a layer's tensors by last name, `quantization_config`, the layer's name -> its weight. Raises UserError for
            unsupported variants, and for tensors that contradict each other.
        check_config: raises UserError for a `quantization_config` of an unsupported variant.
        to_tensors: weight -> tensors by last name; scales in the given dtype where the format has no fixed one.
        to_config: scheme, names of the layers in the blocks that stay float, whether groups follow `g_idx` ->
            `quantization_config`. Raises UserError for unsupported schemes.
    """

    name: str
    keys: tuple[str, ...]
    weight_shape: Callable[[Tensors, Json], tuple[int, int]]
    from_tensors: Callable[[Tensors, Json, str], PackedWeight]
    check_config: Callable[[Json], None]
    to_tensors: Callable[[QuantizedWeight, torch.dtype], dict[str, Tensor]]
    to_config: Callable[[QuantizationScheme, list[str], bool], dict[str, Any]]


def find_group_size(width: int, groups: int, stated: Any) -> int:
    """The group size of rows of `width` weights in `groups` groups; `stated` by the configuration, which other layers may have.

    Raises UserError for a number of groups that no size gives.
    """
    if groups == 1:
        return WHOLE_ROW
    if type(stated) is int and stated > 0 and -(-width // stated) == groups:
        return stated
    if width % groups:
        raise UserError(f"{groups} groups of scales for rows of {width} weights, group_size = {stated!r}")
    return width // groups


def exact_half(scale: Tensor) -> Tensor:
    """Scales in float16 where it holds them exactly, else in float32."""
    half = scale.half()
    return half if torch.equal(half.float(), scale.float()) else scale.float()


def as_weight(
    codes: Tensor, scale: Tensor, zero: Tensor, bits: int, size: int, g_idx: Tensor | None
) -> QuantizedWeight:
    """A weight from codes (out in), scales and zeros (out groups); symmetric where all zeros are the middle code."""
    scheme = QuantizationScheme(bits, size, symmetric=bool((zero == 2 ** (bits - 1)).all()))
    if g_idx is not None:
        g_idx = g_idx.int()
        if g_idx.numel() != codes.shape[1] or not 0 <= int(g_idx.min()) <= int(g_idx.max()) < scale.shape[1]:
            raise UserError(f"g_idx of {g_idx.numel()} groups up to {int(g_idx.max())}, expected {codes.shape[1]} below "
                            f"{scale.shape[1]}")  # fmt: skip
        if torch.equal(g_idx.long(), scheme.group_index(codes.shape[1])):
            g_idx = None
    scale = exact_half(scale).contiguous()
    return QuantizedWeight(codes.contiguous(), scale, zero.to(torch.uint8).contiguous(), scheme, g_idx)
