"""Matrix products with quantized weights on a CPU: compiled code that multiplies as it unpacks, or else PyTorch's int4 kernel for
a few rows and dequantization for more.

`_weight_int4pack_mm_for_cpu` multiplies packed codes of 4 bits in bfloat16, with sums in float32. Codes of 5 to 8 bits are
16 * high + low: two planes of 4 bits, two products. Scales are rounded to bfloat16 (0.2% at most, small beside the
error of 8 bits).
"""

from collections.abc import Iterator
from math import gcd
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from groundup.generate.fixed_shape_products import in_tiles
from groundup.generate.native.native_matrix import TILE_ROWS as NATIVE_TILE_ROWS
from groundup.generate.native.native_matrix import NativeMatrix, code_matrix, multiply, native_library
from groundup.model.frozen_linear import PackedLinear
from groundup.quantize.bit_packing import unpack_codes
from groundup.quantize.kernels.int4_layout import TILE_ROWS, dequantize_tiles, pack_tiles, read_tile_rows, tile_layout
from groundup.quantize.layers.quantized_linear import QuantizedLinear

GROUP_SIZES = (256, 128, 64, 32)
"""That the kernel supports. Larger groups are split into equal ones with the same scale."""
MAX_ROWS = 32
"""Input rows up to which PyTorch's kernel is faster than dequantization, for one plane (measured with AVX-512 and AMX)."""
NATIVE_ROWS = 512
"""Input rows that are multiplied at once by compiled code: its operands then stay in the cache."""
BLOCK_ROWS = 256
"""Rows of the matrix that are dequantized at once: a block stays in the cache of a core."""
PACKED_AT_ONCE = 1024
"""Rows that are unpacked at once, of a multiple of TILE_ROWS: all codes of an output head would take much memory."""


class Int4Linear(PackedLinear):
    """y = x W^T + b from codes in the layout of the int4 kernel, the only copy of the weight. For inference on a CPU.

    Attributes:
        planes: uint8 (1 or 2, N, K / 2); N is `out_features` rounded up to whole tiles.
        grid: bfloat16 (groups, N, 2), scale and offset: a code of one plane is (code - 8) * scale + offset. Of two planes,
            16 times the second plus the first, which shares the offset between both: 17 offsets in all.
        order: int64 (K), the columns of W in the order of `planes`, or None.
        bias: (out), or None.
    """

    planes: Tensor
    grid: Tensor
    order: Tensor | None

    def __init__(self, layer: QuantizedLinear):
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.float_dtype = layer.float_dtype
        order = None if layer.g_idx is None else layer.g_idx.argsort(stable=True)
        rows = -(-layer.out_features // TILE_ROWS) * TILE_ROWS
        self.register_buffer("order", order)
        self.register_buffer("planes", _pack(layer, order, rows))
        self.register_buffer("grid", _grid(layer, rows))
        self.register_buffer("bias", layer.bias)
        self.group_size = self.in_features // len(self.grid)
        self._native: tuple[int, NativeMatrix] | None = None

    def forward(self, x: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
        if torch.is_grad_enabled() and x.requires_grad:  # kernels have no backward pass
            return super().forward(x)
        flat = x.reshape(-1, self.in_features)
        if x.dtype in (torch.bfloat16, torch.float32) and (matrix := self.native_matrix()) is not None:
            parts = [multiply(part, matrix) for part in flat.split(NATIVE_ROWS)]
            y = parts[0] if len(parts) == 1 else torch.cat(parts)
            return y.view(*x.shape[:-1], self.out_features)
        flat = flat.to(torch.bfloat16)
        flat = flat.contiguous() if self.order is None else flat[:, self.order]
        few = len(flat) * len(self.planes) <= MAX_ROWS
        if self.batch_invariant:
            y = in_tiles(flat, self._multiply_codes, ("int4", *self.planes.shape))
        else:
            y = self._multiply_codes(flat) if few else self._multiply_blocks(flat)
        y = y[:, : self.out_features].to(x.dtype).view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias.to(x.dtype)

    def native_matrix(self) -> NativeMatrix | None:
        """The matrix in the form that compiled code reads; None without it, or in another layout."""
        layout = tile_layout()
        if native_library() is None or layout is None or not layout.halves or layout.rows != NATIVE_TILE_ROWS:
            return None
        if self.planes.device.type != "cpu":
            return None
        if self._native is None or self._native[0] != self.planes.data_ptr():
            made = code_matrix(self.planes, self.grid, self.out_features, self.bias, self.order)
            self._native = (self.planes.data_ptr(), made)
        return self._native[1]

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        """Move to another device, but keep the grid in bfloat16: kernels read it as such."""
        grid = self.grid
        super()._apply(fn, recurse)
        if self.grid.dtype != grid.dtype:
            self.grid = grid.to(self.grid.device)
        return self

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_native": None}  # addresses are not those of a copy

    def _multiply_codes(self, x: Float[Tensor, "M K"]) -> Float[Tensor, "M N"]:
        low, *high = (
            torch.ops.aten._weight_int4pack_mm_for_cpu(x, plane, self.group_size, self.grid) for plane in self.planes
        )
        return low.add(high[0], alpha=16) if high else low

    def _multiply_blocks(self, x: Float[Tensor, "M K"]) -> Float[Tensor, "M N"]:
        y = x.new_empty(len(x), self.planes.shape[1])
        for columns, block in zip(y.split(BLOCK_ROWS, dim=1), self._blocks(), strict=True):
            columns.copy_(x @ block)
        return y

    def _blocks(self) -> Iterator[Float[Tensor, "K rows"]]:
        """Rows of W, transposed, with columns in the order of `planes`; in the same memory, one block after the other."""
        scale, offset = self.grid.unbind(-1)
        if len(self.planes) == 2:  # 16 (high - 8) + (low - 8) is code - 136, not code - 128
            offset = 17 * offset.float() - 8 * scale.float()
        scale, offset = torch.stack([scale, offset.to(scale.dtype)]).unbind()
        rows = self.planes.shape[1]
        memory = torch.empty(self.in_features, min(BLOCK_ROWS, rows), dtype=torch.bfloat16)
        for begin in range(0, rows, BLOCK_ROWS):
            part = slice(begin, min(begin + BLOCK_ROWS, rows))
            block = memory[:, : part.stop - begin]
            dequantize_tiles(self.planes[:, part], scale[:, part], offset[:, part], block)
            yield block

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "out in"]:
        """The represented weight, rounded to bfloat16."""
        weight = torch.cat([block.T.to(dtype, copy=True) for block in self._blocks()])[: self.out_features]
        return weight if self.order is None else weight[:, self.order.argsort()]

    def read_rows(self, index: Int[Tensor, "..."]) -> Float[Tensor, "... in"]:
        """Rows of the represented weight, in `float_dtype`."""
        flat = index.flatten()
        low, *high = (read_tile_rows(plane, flat) for plane in self.planes)
        codes = (low + 16 * high[0] if high else low).to(torch.int16) - (136 if high else 8)
        scale, offset = self.grid[:, flat].float().unbind(-1)
        weight = codes.unflatten(1, (len(self.grid), -1)) * scale.T[..., None]
        weight = (weight + (17 if high else 1) * offset.T[..., None]).flatten(1).to(self.float_dtype)
        return (weight if self.order is None else weight[:, self.order.argsort()]).view(*index.shape, -1)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {4 * len(self.planes)} bits"


def is_supported(layer: QuantizedLinear) -> bool:
    """Whether `Int4Linear` can hold this layer."""
    return (
        layer.packed.device.type == "cpu"
        and kernel_group(layer) is not None
        and (
            layer.g_idx is None
            or torch.equal(layer.g_idx.sort().values.long(), layer.scheme.group_index(layer.in_features))
        )
        and tile_layout() is not None
    )


def kernel_group(layer: QuantizedLinear) -> int | None:
    """The largest group size of the kernel that divides all groups of the layer."""
    divisor = gcd(layer.scheme.group_width(layer.in_features), layer.in_features)
    return next((size for size in GROUP_SIZES if divisor % size == 0), None)


def _pack(layer: QuantizedLinear, order: Tensor | None, rows: int) -> Tensor:
    planes = torch.empty(1 if layer.scheme.bits <= 4 else 2, rows, layer.in_features // 2, dtype=torch.uint8)
    for begin in range(0, rows, PACKED_AT_ONCE):
        packed = layer.packed[begin : begin + PACKED_AT_ONCE]
        codes = unpack_codes(packed, layer.scheme.bits, count=layer.in_features)
        codes = codes if order is None else codes[:, order]
        codes = codes + _shift(layer)
        codes = F.pad(codes, (0, 0, 0, -len(codes) % TILE_ROWS))
        for plane, digit in zip(planes, (codes & 15, codes >> 4), strict=False):
            plane[begin : begin + len(codes)] = pack_tiles(digit)
    return planes


def _grid(layer: QuantizedLinear, rows: int) -> Tensor:
    """Scale and offset of each group of the kernel."""
    scheme, size = layer.scheme, kernel_group(layer)
    assert size
    scale = layer.scale.float()
    zero = (torch.full_like(scale, scheme.mid_code) if layer.zero is None else layer.zero.float()) + _shift(layer)
    offset = (8 - zero) * scale if scheme.bits <= 4 else (136 - zero) * scale / 17
    grid = torch.stack([scale, offset], dim=-1)
    index = torch.arange(0, layer.in_features, size) // scheme.group_width(layer.in_features)
    grid = F.pad(grid[:, index], (0, 0, 0, 0, 0, rows - len(grid)))
    return grid.transpose(0, 1).to(torch.bfloat16).contiguous()


def _shift(layer: QuantizedLinear) -> int:
    """Added to codes and zeros of fewer bits than the planes have, so that the zero of a symmetric grid is in the middle."""
    return (8 if layer.scheme.bits <= 4 else 128) - layer.scheme.mid_code
