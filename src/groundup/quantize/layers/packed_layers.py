"""The layer of each quantization scheme: made of a quantized weight, empty to load one into, found in a model."""

import torch
from torch import Tensor, nn

from groundup.quantize.layers.int8_linear import Int8Linear
from groundup.quantize.layers.nf4 import NF4, NF4Weight
from groundup.quantize.layers.nf4_linear import NF4Linear
from groundup.quantize.layers.quantized_linear import QuantizedLinear
from groundup.quantize.quantization_grid import QuantizationScheme, QuantizedWeight

PackedLayer = QuantizedLinear | NF4Linear
"""A layer with a `scheme`."""


def make_layer(weight: QuantizedWeight | NF4Weight, bias: Tensor | None = None) -> PackedLayer:
    """The layer of a quantized weight."""
    if isinstance(weight, NF4Weight):
        return NF4Linear.from_weight(weight, bias)
    return _integer_class(weight.scheme).from_weight(weight, bias)


def empty_layer(linear: nn.Linear, scheme: QuantizationScheme, *, permuted: bool = False) -> PackedLayer:
    """A layer on the device "meta" in place of `linear`."""
    sizes, bias = (linear.in_features, linear.out_features), None if linear.bias is None else linear.bias.dtype
    with torch.device("meta"):
        if scheme == NF4:
            return NF4Linear.empty(*sizes, bias)
        return _integer_class(scheme)(*sizes, scheme, bias, permuted=permuted)


def packed_layers(model: nn.Module) -> dict[str, PackedLayer]:
    """The layers with packed weights of a model, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, PackedLayer)}


def _integer_class(scheme: QuantizationScheme) -> type[QuantizedLinear]:
    return QuantizedLinear if scheme.input_bits is None else Int8Linear
