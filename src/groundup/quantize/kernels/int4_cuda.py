"""Products with codes of 4 bits on an NVIDIA GPU, by PyTorch's own kernel: `_weight_int4pack_mm` ("tinygemm").

It multiplies in bfloat16 with sums in float32, and is made for a few rows: each row of codes is read once for up to 16 rows of x.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from groundup.model.frozen_linear import PackedLinear
from groundup.quantize.bit_packing import unpack_codes
from groundup.quantize.kernels.int4_cpu import kernel_group
from groundup.quantize.layers.quantized_linear import QuantizedLinear

ROW_MULTIPLE, TILES_AT_ONCE, TILE_COLUMNS = 8, 8, 16
"""Rows of W come in eights, its columns in eight tiles of 16."""
COMPUTE_CAPABILITY = (8, 0)
"""That the kernel needs."""


class CudaInt4Linear(PackedLinear):
    """y = x W^T + b from codes in the layout of the GPU's kernel, the only copy of the weight. For inference.

    Attributes:
        packed: int32 (N / 8, K / 128, 32, 4); N is `out_features` rounded up.
        grid: bfloat16 (groups, N, 2), scale and offset: a code represents (code - 8) * scale + offset.
        bias: (out), or None.
    """

    packed: Tensor
    grid: Tensor

    def __init__(self, layer: QuantizedLinear):
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.float_dtype, self.group_size = layer.float_dtype, kernel_group(layer)
        codes, middle = unpack_codes(layer.packed, layer.scheme.bits, count=layer.in_features), layer.scheme.mid_code
        rows = -len(codes) % ROW_MULTIPLE
        scale = layer.scale.float()
        offset = torch.zeros_like(scale) if layer.zero is None else (middle - layer.zero.float()) * scale
        assert self.group_size
        index = torch.arange(0, self.in_features, self.group_size, device=scale.device)
        index = index // layer.scheme.group_width(self.in_features)
        grid = F.pad(torch.stack([scale, offset], dim=-1)[:, index], (0, 0, 0, 0, 0, rows)).transpose(0, 1)
        self.register_buffer("packed", pack_codes(F.pad(codes + (8 - middle), (0, 0, 0, rows))))
        self.register_buffer("grid", grid.to(torch.bfloat16).contiguous())
        self.register_buffer("bias", layer.bias)

    def forward(self, x: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
        if torch.is_grad_enabled() and x.requires_grad:  # the kernel has no backward pass
            return super().forward(x)
        flat = x.reshape(-1, self.in_features).to(torch.bfloat16).contiguous()
        y = multiply_codes(flat, self.packed, self.group_size or 0, self.grid)[:, : self.out_features]
        y = y.to(x.dtype).view(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias.to(x.dtype)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "out in"]:
        """The represented weight, rounded to bfloat16: the product with the identity."""
        identity = torch.eye(self.in_features, dtype=torch.bfloat16, device=self.packed.device)
        return multiply_codes(identity, self.packed, self.group_size or 0, self.grid)[:, : self.out_features].T.to(
            dtype
        )

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, 4 bits"


def runs_on_cuda(layer: QuantizedLinear) -> bool:
    """Whether `CudaInt4Linear` can hold this layer."""
    device = layer.packed.device
    return (
        device.type == "cuda"
        and torch.cuda.get_device_capability(device) >= COMPUTE_CAPABILITY
        and fits_kernel(layer)
    )  # fmt: skip


def fits_kernel(layer: QuantizedLinear) -> bool:
    """Whether the kernel has the sizes and the grid of a layer."""
    columns = TILES_AT_ONCE * TILE_COLUMNS
    return (
        layer.scheme.bits <= 4
        and layer.g_idx is None
        and layer.in_features % columns == 0
        and kernel_group(layer) is not None
    )


def pack_codes(codes: UInt8[Tensor, "N K"]) -> Tensor:
    """Codes below 16 in the kernel's layout."""
    pairs = codes[:, ::2] << 4 | codes[:, 1::2]
    return torch.ops.aten._convert_weight_to_int4pack(pairs.contiguous(), TILES_AT_ONCE)


def multiply_codes(x: Float[Tensor, "M K"], packed: Tensor, group: int, grid: Tensor) -> Float[Tensor, "M N"]:
    """x W^T."""
    return torch.ops.aten._weight_int4pack_mm(x, packed, group, grid)
