"""Matrix products with quantized weights on a CPU: compiled code that multiplies as it unpacks, or else PyTorch's int4 kernel for
a few rows and dequantization for more.

`_weight_int4pack_mm_for_cpu` multiplies packed codes of 4 bits in bfloat16, with sums in float32. Codes of 5 to 8 bits are
16 * high + low: two planes of 4 bits, two products. Compiled code also reads codes of 6 bits, whose high plane has 2. Scales are
rounded to bfloat16 (0.2% at most, small beside the error of 8 bits).
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
from groundup.quantize.kernels.int4_layout import (
    TILE_ROWS,
    dequantize_tiles,
    expand_quarters,
    pack_quarters,
    pack_tiles,
    read_quarters,
    read_tile_rows,
    tile_layout,
)
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
        low: uint8 (N, K / 2), the lower 4 bits of each code; N is `out_features` rounded up to whole tiles.
        high: the other bits, or None: uint8 (N, K / 2) for codes of 8 bits, (N, K / 4) for those of 6.
        grid: bfloat16 (groups, N, 1 or 2): scale, and offset where the grid is not symmetric. A code represents
            (code - middle) * scale + offset, where the middle is half of the number of codes.
        order: int64 (K), the columns of W in the order of the codes, or None.
        bias: (out), or None.
    """

    low: Tensor
    high: Tensor | None
    grid: Tensor
    order: Tensor | None

    def __init__(self, layer: QuantizedLinear):
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.float_dtype = layer.float_dtype
        self.code_bits = stored_bits(layer.scheme.bits)
        order = None if layer.g_idx is None else layer.g_idx.argsort(stable=True)
        rows = -(-layer.out_features // TILE_ROWS) * TILE_ROWS
        self.register_buffer("order", order)
        low, high = _pack(layer, order, rows, self.code_bits)
        self.register_buffer("low", low)
        self.register_buffer("high", high)
        self.register_buffer("grid", _grid(layer, rows, self.code_bits))
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
        few = len(flat) * (1 if self.high is None else 2) <= MAX_ROWS
        if self.batch_invariant:
            y = in_tiles(flat, self._multiply_codes, ("int4", self.code_bits, *self.low.shape))
        else:
            y = self._multiply_codes(flat) if few else self._multiply_blocks(flat)
        y = y[:, : self.out_features].to(x.dtype).view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias.to(x.dtype)

    def native_matrix(self) -> NativeMatrix | None:
        """The matrix in the form that compiled code reads; None without it, or in another layout."""
        if not reads_natively() or self.low.device.type != "cpu":
            return None
        if self._native is None or self._native[0] != self.low.data_ptr():
            made = code_matrix(self.low, self.high, self.grid, self.out_features, self.bias, self.order)
            self._native = (self.low.data_ptr(), made)
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

    def _planes(self) -> Tensor:
        """The codes as those of 4 or 8 bits, of which the middle is 8 or 128: uint8 (1 or 2, N, K / 2)."""
        if self.high is None:
            return self.low[None]
        high = self.high if self.code_bits == 8 else expand_quarters(self.high, (128 - 32) // 16)
        return torch.stack([self.low, high])

    def _scale_and_offset(self) -> tuple[Tensor, Tensor]:
        scale = self.grid[..., 0]
        return scale, self.grid[..., 1] if self.grid.shape[2] == 2 else torch.zeros_like(scale)

    def _multiply_codes(self, x: Float[Tensor, "M K"]) -> Float[Tensor, "M N"]:
        scale, offset = self._scale_and_offset()
        if self.high is not None:  # 16 (high - 8) + (low - 8) is code - 136; both planes add the offset: 17 of them
            offset = (offset.float() + 8 * scale.float()).div_(17).to(scale.dtype)
        grid = torch.stack([scale, offset], dim=-1)
        low, *high = (
            torch.ops.aten._weight_int4pack_mm_for_cpu(x, plane, self.group_size, grid) for plane in self._planes()
        )
        return low.add(high[0], alpha=16) if high else low

    def _multiply_blocks(self, x: Float[Tensor, "M K"]) -> Float[Tensor, "M N"]:
        y = x.new_empty(len(x), len(self.low))
        for columns, block in zip(y.split(BLOCK_ROWS, dim=1), self._blocks(), strict=True):
            columns.copy_(x @ block)
        return y

    def _blocks(self) -> Iterator[Float[Tensor, "K rows"]]:
        """Rows of W, transposed, with columns in the order of the codes; in the same memory, one block after the other."""
        scale, offset = (each.contiguous() for each in self._scale_and_offset())
        planes, rows = self._planes(), len(self.low)
        memory = torch.empty(self.in_features, min(BLOCK_ROWS, rows), dtype=torch.bfloat16)
        for begin in range(0, rows, BLOCK_ROWS):
            part = slice(begin, min(begin + BLOCK_ROWS, rows))
            block = memory[:, : part.stop - begin]
            dequantize_tiles(planes[:, part], scale[:, part], offset[:, part], block)
            yield block

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "out in"]:
        """The represented weight, rounded to bfloat16."""
        weight = torch.cat([block.T.to(dtype, copy=True) for block in self._blocks()])[: self.out_features]
        return weight if self.order is None else weight[:, self.order.argsort()]

    def read_rows(self, index: Int[Tensor, "..."]) -> Float[Tensor, "... in"]:
        """Rows of the represented weight, in `float_dtype`."""
        flat = index.flatten()
        codes = read_tile_rows(self.low, flat).to(torch.int16)
        if self.high is not None:
            read = read_tile_rows if self.code_bits == 8 else read_quarters
            codes += 16 * read(self.high, flat).to(torch.int16)
        scale, offset = (each[:, flat].float().T[..., None] for each in self._scale_and_offset())
        codes = (codes - 2 ** (self.code_bits - 1)).unflatten(1, (len(self.grid), -1))
        weight = (codes * scale + offset).flatten(1).to(self.float_dtype)
        return (weight if self.order is None else weight[:, self.order.argsort()]).view(*index.shape, -1)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.code_bits} bits"


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


def reads_natively() -> bool:
    """Whether compiled code reads the layout of this machine."""
    layout = tile_layout()
    return native_library() is not None and layout is not None and layout.halves and layout.rows == NATIVE_TILE_ROWS


def stored_bits(bits: int) -> int:
    """Bits in memory of a code of `bits` bits."""
    if bits <= 4:
        return 4
    return 6 if bits <= 6 and reads_natively() else 8


def _pack(layer: QuantizedLinear, order: Tensor | None, rows: int, code_bits: int) -> tuple[Tensor, Tensor | None]:
    """The lower 4 bits of the codes, and the others if there are any."""
    width = layer.in_features
    low = torch.empty(rows, width // 2, dtype=torch.uint8)
    high = None if code_bits == 4 else torch.empty(rows, width * (code_bits - 4) // 8, dtype=torch.uint8)
    for begin in range(0, rows, PACKED_AT_ONCE):
        codes = unpack_codes(layer.packed[begin : begin + PACKED_AT_ONCE], layer.scheme.bits, count=width)
        codes = codes if order is None else codes[:, order]
        codes = codes + _shift(layer, code_bits)
        codes = F.pad(codes, (0, 0, 0, -len(codes) % TILE_ROWS))
        part = slice(begin, begin + len(codes))
        low[part] = pack_tiles(codes & 15)
        if high is not None:
            high[part] = (pack_tiles if code_bits == 8 else pack_quarters)(codes >> 4)
    return low, high


def _grid(layer: QuantizedLinear, rows: int, code_bits: int) -> Tensor:
    """Scale, and offset if it is not zero, of each group of the kernel."""
    scheme, size = layer.scheme, kernel_group(layer)
    assert size
    scale = layer.scale.float()
    parts = [scale]
    if layer.zero is not None:
        parts.append((scheme.mid_code - layer.zero.float()) * scale)
    grid = torch.stack(parts, dim=-1)
    index = torch.arange(0, layer.in_features, size) // scheme.group_width(layer.in_features)
    grid = F.pad(grid[:, index], (0, 0, 0, 0, 0, rows - len(grid)))
    return grid.transpose(0, 1).to(torch.bfloat16).contiguous()


def _shift(layer: QuantizedLinear, code_bits: int) -> int:
    """Added to codes of fewer bits than are stored, so that the zero of a symmetric grid is in the middle."""
    return 2 ** (code_bits - 1) - layer.scheme.mid_code
