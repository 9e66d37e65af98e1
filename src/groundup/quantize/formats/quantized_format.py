"""Interface of a quantized file format: conversion of a layer's tensors and of the model's description."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from groundup.quantize.quantization_grid import QuantizationScheme, QuantizedWeight


@dataclass(frozen=True)
class QuantizedFormat:
    """A file format of other software, with W = (codes - zero) * scale in groups along the input.

    Attributes:
        name: `quant_method` in config.json.
        key_tensor: the last name of a tensor that every quantized layer has and no other layer.
        weight_shape: shape of that tensor -> (out, in) of the weight.
        to_tensors: weight -> tensors by last name; scales in the given dtype where the format has no fixed one.
        from_tensors: tensors -> weight. Raises UserError for unsupported variants.
        to_config: scheme -> `quantization_config` of config.json. Raises UserError for unsupported schemes.
        scheme_from_config: `quantization_config` -> scheme. Raises UserError for unsupported schemes.
    """

    name: str
    key_tensor: str
    weight_shape: Callable[[tuple[int, ...], QuantizationScheme], tuple[int, int]]
    to_tensors: Callable[[QuantizedWeight, torch.dtype], dict[str, Tensor]]
    from_tensors: Callable[[Mapping[str, Tensor], QuantizationScheme], QuantizedWeight]
    to_config: Callable[[QuantizationScheme], dict[str, Any]]
    scheme_from_config: Callable[[Mapping[str, Any]], QuantizationScheme]
