"""Codes of 4 bits in the layout of PyTorch's int4 kernel for a CPU, and back.

A tile is R rows of a matrix: `packed[tile, column]` holds R / 2 bytes of two codes. R and the order of rows in a tile depend
on the instruction set that PyTorch was built for, so they are found by packing a matrix whose codes are its row numbers.
"""

from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from groundup.quantize.kernels.native_code import dequantize_natively

TILE_ROWS = 64
"""Rows are padded to a multiple of it, of which all layouts divide: a shorter last tile would have another order."""


@dataclass(frozen=True)
class TileLayout:
    """Rows of a tile in the order of their codes: first those in the low halves of its bytes, then those in the high ones.

    Attributes:
        order: int64 (R).
        halves: the low halves hold the first R / 2 rows.
    """

    order: Tensor
    halves: bool

    @property
    def rows(self) -> int:
        return len(self.order)


def pack_tiles(codes: UInt8[Tensor, "N K"]) -> UInt8[Tensor, "N half"]:
    """Codes below 16 in the kernel's layout; N a multiple of TILE_ROWS, K an even number."""
    layout = tile_layout()
    if layout is None or not layout.halves:
        return _pack_with_torch(codes)
    low, high = codes.view(-1, 2, layout.rows // 2, codes.shape[1]).unbind(1)
    return (low | high << 4).transpose(1, 2).reshape(len(codes), -1)  # several times faster: bytes, not int32


def _pack_with_torch(codes: UInt8[Tensor, "N K"]) -> UInt8[Tensor, "N half"]:
    return torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.int(), 1)


@cache
def tile_layout() -> TileLayout | None:
    """The layout on this machine; None if it is of another kind."""
    row, column = torch.arange(TILE_ROWS)[:, None], torch.arange(4)[None]
    packed = [_pack_with_torch(digit.expand(TILE_ROWS, 4).byte()) for digit in (row % 16, row // 16, column)]
    for rows in (64, 32, 16):
        low, high, columns = (_halves(each.view(-1, 4, rows // 2)).long() for each in packed)
        found = low + 16 * high
        first = torch.arange(TILE_ROWS // rows)[:, None, None] * rows
        order = found[0, 0]
        if torch.equal(found, (order + first).expand_as(found)) and torch.equal(columns, column.T.expand_as(columns)):
            return TileLayout(order, torch.equal(order, torch.arange(rows)))
    return None


def dequantize_tiles(
    planes: UInt8[Tensor, "P N half"],
    scale: Float[Tensor, "G N"],
    offset: Float[Tensor, "G N"],
    out: Float[Tensor, "K N"],
) -> None:
    """Write the represented matrix, transposed, to `out` in bfloat16; N a multiple of TILE_ROWS.

    A code is that of the first plane, plus 16 times that of the second if there is one. It represents
    (code - middle) * scale + offset, where the middle is 8 for one plane and 128 for two.
    """
    layout = tile_layout()
    assert layout
    if layout.halves and dequantize_natively(planes, scale, offset, layout.rows, out):
        return
    width, groups = len(out), len(scale)
    low, *high = (_halves(plane.reshape(-1, width, layout.rows // 2).transpose(0, 1)) for plane in planes)
    codes = low + 16 * high[0] if high else low
    codes = codes if layout.halves else codes[..., layout.order.argsort()]
    out.copy_(codes.flatten(1).to(torch.int16).sub_(128 if high else 8))
    grouped = out.unflatten(0, (groups, -1))
    torch.addcmul(offset[:, None], grouped, scale[:, None], out=grouped)


def unpack_tiles(packed: UInt8[Tensor, "N half"]) -> UInt8[Tensor, "N K"]:
    """The codes; inverse of `pack_tiles`."""
    layout = tile_layout()
    assert layout
    codes = _halves(packed.view(-1, packed.shape[1] * 2, layout.rows // 2))[..., layout.order.argsort()]
    return codes.transpose(1, 2).flatten(0, 1).contiguous()


def read_tile_rows(packed: UInt8[Tensor, "N half"], index: Int[Tensor, " R"]) -> UInt8[Tensor, "R K"]:
    """The codes of some rows."""
    layout = tile_layout()
    assert layout
    half = layout.rows // 2
    place = layout.order.argsort()[index % layout.rows]
    tiles = packed.view(-1, packed.shape[1] * 2, half).transpose(1, 2)
    found = tiles[index // layout.rows, place % half]
    return torch.where((place >= half)[:, None], found >> 4, found & 15)


def pack_quarters(codes: UInt8[Tensor, "N K"]) -> UInt8[Tensor, "N quarter"]:
    """Codes below 4, four to a byte: byte i of a column of a tile holds rows i, i + 16, i + 32 and i + 48."""
    rows = codes.view(-1, 4, TILE_ROWS // 4, codes.shape[1])
    packed = rows[:, 0] | rows[:, 1] << 2 | rows[:, 2] << 4 | rows[:, 3] << 6
    return packed.transpose(1, 2).reshape(len(codes), -1)


def expand_quarters(packed: UInt8[Tensor, "N quarter"], added: int) -> UInt8[Tensor, "N half"]:
    """The codes of `pack_quarters` plus a number, in the layout of the kernel."""
    tiles = packed.view(-1, packed.shape[1] * 4, TILE_ROWS // 4)
    rows = torch.cat([(tiles >> shift & 3) + added for shift in (0, 2, 4, 6)], dim=-1)
    return (rows[..., : TILE_ROWS // 2] | rows[..., TILE_ROWS // 2 :] << 4).reshape(len(packed), -1)


def read_quarters(packed: UInt8[Tensor, "N quarter"], index: Int[Tensor, " R"]) -> UInt8[Tensor, "R K"]:
    """Some rows of the codes of `pack_quarters`."""
    tiles = packed.view(-1, packed.shape[1] * 4, TILE_ROWS // 4).transpose(1, 2)
    row = index % TILE_ROWS
    shift = (row // (TILE_ROWS // 4) * 2).to(torch.uint8)[:, None]
    return tiles[index // TILE_ROWS, row % (TILE_ROWS // 4)] >> shift & 3


def _halves(packed: UInt8[Tensor, "... half"]) -> UInt8[Tensor, "... R"]:
    return torch.cat([packed & 15, packed >> 4], dim=-1)
