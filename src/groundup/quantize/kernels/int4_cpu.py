"""4-bit matrix products on a CPU with PyTorch's int4 kernel, for small batches.

Dequantizing a matrix costs more than multiplying a few rows with it. torch's `_weight_int4pack_mm_for_cpu` multiplies
packed codes directly in bfloat16 (about 0.3% off, small beside the error of 4 bits). Larger inputs, such as prompts,
use the exact layer.
"""

import torch
from torch import Tensor, nn

from groundup.model.frozen_linear import PackedLinear
from groundup.quantize.layers.quantized_linear import QuantizedLinear, quantized_layers

GROUP_SIZES = (32, 64, 128, 256)
OUTPUT_MULTIPLE = 16
"""The kernel needs a multiple of this many output features."""
MAX_ROWS = 16
"""With more input rows, dequantizing is faster (measured on two cores with AVX-512)."""


class Int4Linear(PackedLinear):
    """A QuantizedLinear with a second copy of its codes in the kernel's layout.

    On other devices than a CPU, and for more than MAX_ROWS rows, it calls the wrapped layer.
    """

    packed: Tensor
    grid: Tensor

    def __init__(self, exact: QuantizedLinear):
        super().__init__()
        self.exact = exact
        self.in_features, self.out_features = exact.in_features, exact.out_features
        weight = exact.unpack_weight()
        scale = weight.scale.float().T
        # the kernel computes (code - 8) * scale + offset
        offset = (exact.scheme.mid_code - weight.zero.float().T) * scale
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(weight.codes.int(), 1)
        self.register_buffer("packed", packed, persistent=False)
        self.register_buffer("grid", torch.stack([scale, offset], -1).to(torch.bfloat16).contiguous(), persistent=False)

    @property
    def bias(self) -> Tensor | None:  # type: ignore[override]
        return self.exact.bias

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.exact.dequantize(dtype)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.numel() // x.shape[-1]
        if rows > MAX_ROWS or x.device.type != "cpu":
            return self.exact(x)
        flat = x.reshape(rows, -1).to(torch.bfloat16)
        y = torch.ops.aten._weight_int4pack_mm_for_cpu(flat, self.packed, self.exact.scheme.group_size, self.grid)
        y = y.view(*x.shape[:-1], -1).to(x.dtype)
        return y if self.exact.bias is None else y + self.exact.bias.to(x.dtype)


def use_int4_kernel(model: nn.Module) -> nn.Module:
    """Wrap the supported quantized layers of a model on a CPU in `Int4Linear`, in place. Returns the model.

    For inference only: a wrapped model cannot be saved or exported.
    """
    for name, layer in quantized_layers(model).items():
        if is_supported(layer):
            model.set_submodule(name, Int4Linear(layer))
    return model


def is_supported(layer: QuantizedLinear) -> bool:
    """Whether the int4 kernel supports this layer."""
    scheme = layer.scheme
    return (
        layer.packed.device.type == "cpu"
        and scheme.bits == 4
        and layer.g_idx is None
        and scheme.group_size in GROUP_SIZES
        and layer.in_features % scheme.group_size == 0
        and layer.out_features % OUTPUT_MULTIPLE == 0
    )
