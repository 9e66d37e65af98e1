"""Linear layer with a quantized weight, integer or float8: packed codes and float16 scales, dequantized in the forward pass."""

from typing import Any

import torch
from torch import Tensor, nn

from groundup.model.frozen_linear import PackedLinear
from groundup.quantize.bit_packing import pack_codes, unpack_codes
from groundup.quantize.quantization_grid import QuantizationScheme, QuantizedWeight, dequantize_weight


class QuantizedLinear(PackedLinear):
    """y = x W^T + b with a quantized W, on any device and in any floating dtype.

    Attributes:
        packed: uint8 (out, in * bits / 8 rounded up), a row's codes as `pack_codes` packs them.
        scale: float16 (out groups).
        zero: uint8 (out groups), or None for symmetric grids.
        g_idx: int32 (in), the group of each input, or None for groups of neighbours.
        bias: (out), or None.
    """

    packed: Tensor
    scale: Tensor
    zero: Tensor | None
    g_idx: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        scheme: QuantizationScheme,
        bias: torch.dtype | None = None,
        *,
        permuted: bool = False,
    ):
        super().__init__()
        self.in_features, self.out_features, self.scheme = in_features, out_features, scheme
        groups = scheme.num_groups(in_features)
        packed = torch.zeros(out_features, -(-in_features * scheme.bits // 8), dtype=torch.uint8)
        self.register_buffer("packed", packed)
        self.register_buffer("scale", torch.zeros(out_features, groups, dtype=torch.float16))
        zero = None if scheme.symmetric else torch.zeros(out_features, groups, dtype=torch.uint8)
        self.register_buffer("zero", zero)
        self.register_buffer("g_idx", torch.zeros(in_features, dtype=torch.int32) if permuted else None)
        self.register_buffer("bias", None if bias is None else torch.zeros(out_features, dtype=bias))

    @classmethod
    def from_weight(cls, weight: QuantizedWeight, bias: Tensor | None = None) -> "QuantizedLinear":
        out_features, in_features = weight.codes.shape
        with torch.device("meta"):
            layer = cls(in_features, out_features, weight.scheme)
        layer.packed = pack_codes(weight.codes, weight.scheme.bits, torch.uint8)
        layer.scale, layer.g_idx = weight.scale, weight.g_idx
        if not weight.scheme.symmetric:
            layer.zero = weight.zero
        if bias is not None:
            layer.bias = bias.detach().clone()
        return layer

    def unpack_weight(self) -> QuantizedWeight:
        """The weight with unpacked codes."""
        zero = (
            self.zero if self.zero is not None else torch.full_like(self.scale, self.scheme.mid_code, dtype=torch.uint8)
        )
        codes = unpack_codes(self.packed, self.scheme.bits, count=self.in_features)
        return QuantizedWeight(codes, self.scale, zero, self.scheme, self.g_idx)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The represented weight, (out in)."""
        weight = self.unpack_weight()
        return dequantize_weight(weight.codes, weight.scale, weight.zero, weight.scheme, dtype, weight.g_idx)

    def _apply(self, fn: Any, recurse: bool = True) -> "QuantizedLinear":
        """Move the scales without casting them: `model.to(torch.bfloat16)` must not change the weights."""
        scale = self.scale
        super()._apply(fn, recurse)
        self.scale = self.scale.half() if scale.is_meta else scale.to(self.scale.device)
        return self

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.scheme}"


def quantized_layers(model: nn.Module) -> dict[str, QuantizedLinear]:
    """The quantized layers of a model, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}
