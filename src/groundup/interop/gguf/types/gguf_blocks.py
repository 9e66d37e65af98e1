"""Block types of GGUF: the bytes of a block, as codes and scales, in both directions.

A row is cut into blocks of 32 values, or 256 (the k-quants), and a block into groups of 16 or 32 with one scale:

    value = d * scale * code - m * minimum

`d` and `m` are float16 numbers of the block; `scale` and `minimum` are small integers of a group (1 where the block is one
group). Types without minimums have signed codes.

Source: ggml, src/ggml-common.h (layouts); the gguf package unpacks the same bytes and judges this file in the tests.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from jaxtyping import Float, Integer, UInt8
from torch import Tensor


@dataclass
class Blocks:
    """Unpacked blocks of one type.

    Attributes:
        codes: signed where the type has no minimums.
        d, m: float16; m is None for types without minimums.
        scales, minimums: integers of the groups; None for a block that is one group.
    """

    codes: Integer[Tensor, "blocks values"]
    d: Float[Tensor, " blocks"]
    m: Float[Tensor, " blocks"] | None = None
    scales: Integer[Tensor, "blocks groups"] | None = None
    minimums: Integer[Tensor, "blocks groups"] | None = None

    def values(self) -> Float[Tensor, "blocks values"]:
        """float32, with the products in the order of ggml, so that every bit is equal."""
        scale, offset = self.d.float()[:, None], None if self.m is None else self.m.float()[:, None]
        if self.scales is not None:
            scale = scale * self.scales
        if offset is not None and self.minimums is not None:
            offset = offset * self.minimums
        values = self.codes.unflatten(1, (scale.shape[1], -1)).float().mul_(scale[..., None])
        if offset is not None:
            values -= offset[..., None]
        return values.flatten(1)


Packed = UInt8[Tensor, "blocks bytes"]


@dataclass(frozen=True)
class BlockType:
    """A type of packed tensors.

    Attributes:
        kind: the type's number and name in GGUF.
        group: values with one scale.
        codes: the lowest and the highest code.
        scales: the lowest and the highest scale of a group; None: the block is one group.
        has_minimum: a value that is added to all values of a group.
        unpack, pack: bytes of blocks to `Blocks`, and back.
    """

    kind: GGMLQuantizationType
    group: int
    codes: tuple[int, int]
    scales: tuple[int, int] | None
    has_minimum: bool
    unpack: Callable[[Packed], Blocks]
    pack: Callable[[Blocks], Packed]

    @property
    def block(self) -> int:
        """Values of a block."""
        return GGML_QUANT_SIZES[self.kind][0]

    @property
    def block_bytes(self) -> int:
        return GGML_QUANT_SIZES[self.kind][1]


def dequantize_blocks(packed: UInt8[Tensor, "rows bytes"], kind: BlockType) -> Float[Tensor, "rows values"]:
    """float32 values of rows of packed blocks."""
    return kind.unpack(packed.view(-1, kind.block_bytes)).values().view(len(packed), -1)


def _float16(packed: Packed, begin: int) -> Tensor:
    return packed[:, begin : begin + 2].contiguous().view(torch.float16)[:, 0]


def _bytes(x: Tensor) -> Packed:
    """float16 (blocks) as two bytes each."""
    return x.to(torch.float16).contiguous().view(-1, 1).view(torch.uint8)


def _split(words: Tensor, bits: int, count: int) -> Tensor:
    """(... L) bytes as `count` planes of `bits` bits, lowest first: (... count L)."""
    shifts = bits * torch.arange(count, dtype=torch.uint8, device=words.device)[:, None]
    return words[..., None, :] >> shifts & (1 << bits) - 1


def _join(planes: Tensor, bits: int) -> Tensor:
    """The inverse of `_split`: (... count L) codes of `bits` bits to (... L) bytes."""
    words = planes[..., 0, :].to(torch.uint8)
    for index in range(1, planes.shape[-2]):
        words = words | planes[..., index, :].to(torch.uint8) << bits * index
    return words


def _simple(kind: GGMLQuantizationType, bits: int, has_minimum: bool) -> BlockType:
    """Q4_0, Q4_1, Q5_0, Q5_1: 32 codes; low halves of bytes hold the first 16, and a fifth bit stands apart."""
    offset = 0 if has_minimum else 1 << bits - 1
    head = 4 if has_minimum else 2

    def unpack(packed: Packed) -> Blocks:
        codes = _split(packed[:, -16:], 4, 2).flatten(1)
        if bits == 5:
            codes = codes | _split(packed[:, head : head + 4], 1, 8).transpose(1, 2).flatten(1) << 4
        m = -_float16(packed, 2) if has_minimum else None
        return Blocks(codes.to(torch.int8) - offset, _float16(packed, 0), m)

    def pack(blocks: Blocks) -> Packed:
        codes = (blocks.codes + offset).to(torch.uint8)
        parts = [_bytes(blocks.d)] + ([] if blocks.m is None else [_bytes(-blocks.m)])
        if bits == 5:
            parts.append(_join((codes >> 4).unflatten(1, (4, 8)).transpose(1, 2), 1))
        return torch.cat([*parts, _join((codes & 15).unflatten(1, (2, 16)), 4)], 1)

    return BlockType(kind, 32, (-offset, (1 << bits) - 1 - offset), None, has_minimum, unpack, pack)


def _unpack_q8_0(packed: Packed) -> Blocks:
    return Blocks(packed[:, 2:].view(torch.int8), _float16(packed, 0))


def _pack_q8_0(blocks: Blocks) -> Packed:
    return torch.cat([_bytes(blocks.d), blocks.codes.to(torch.int8).view(torch.uint8)], 1)


def _unpack_q2_k(packed: Packed) -> Blocks:
    halves, codes = packed[:, :16], _split(packed[:, 16:80].unflatten(1, (2, 32)), 2, 4)
    return Blocks(codes.flatten(1), _float16(packed, 80), _float16(packed, 82), halves & 15, halves >> 4)


def _pack_q2_k(blocks: Blocks) -> Packed:
    assert blocks.scales is not None
    assert blocks.minimums is not None
    assert blocks.m is not None
    halves = _join(torch.stack([blocks.scales, blocks.minimums], 1), 4)
    codes = _join(blocks.codes.unflatten(1, (2, 4, 32)), 2).flatten(1)
    return torch.cat([halves, codes, _bytes(blocks.d), _bytes(blocks.m)], 1)


def _unpack_q3_k(packed: Packed) -> Blocks:
    top = _split(packed[:, :32], 1, 8).unflatten(1, (2, 4))
    codes = _split(packed[:, 32:96].unflatten(1, (2, 32)), 2, 4) | top << 2
    low = _split(packed[:, 96:104], 4, 2).flatten(1)
    high = _split(packed[:, 104:108], 2, 4).flatten(1)
    scales = (low | high << 4).to(torch.int8) - 32
    return Blocks(codes.flatten(1).to(torch.int8) - 4, _float16(packed, 108), None, scales)


def _pack_q3_k(blocks: Blocks) -> Packed:
    assert blocks.scales is not None
    codes = (blocks.codes + 4).to(torch.uint8).unflatten(1, (2, 4, 32))
    scales = (blocks.scales + 32).to(torch.uint8)
    top = _join((codes >> 2).flatten(1, 2), 1)
    low, high = _join((scales & 15).unflatten(1, (2, 8)), 4), _join((scales >> 4).unflatten(1, (4, 4)), 2)
    return torch.cat([top, _join(codes & 3, 2).flatten(1), low, high, _bytes(blocks.d)], 1)


def _unpack_scales(packed: Packed) -> tuple[Tensor, Tensor]:
    """Eight scales and eight minimums of six bits in twelve bytes: those of the last four groups are in two parts."""
    first, second, third = packed.unflatten(1, (3, 4)).unbind(1)
    scales = torch.cat([first & 63, third & 15 | first >> 6 << 4], 1)
    return scales, torch.cat([second & 63, third >> 4 | second >> 6 << 4], 1)


def _pack_scales(scales: Tensor, minimums: Tensor) -> Packed:
    (a, b), (c, d) = (x.to(torch.uint8).split(4, 1) for x in (scales, minimums))
    return torch.cat([a | b >> 4 << 6, c | d >> 4 << 6, b & 15 | (d & 15) << 4], 1)


def _with_minimums(kind: GGMLQuantizationType, bits: int) -> BlockType:
    """Q4_K and Q5_K: eight groups of 32; the fifth bits stand apart."""

    def unpack(packed: Packed) -> Blocks:
        scales, minimums = _unpack_scales(packed[:, 4:16])
        codes = _split(packed[:, -128:].unflatten(1, (4, 32)), 4, 2).flatten(1)
        if bits == 5:
            codes = codes | _split(packed[:, 16:48], 1, 8).flatten(1) << 4
        return Blocks(codes, _float16(packed, 0), _float16(packed, 2), scales, minimums)

    def pack(blocks: Blocks) -> Packed:
        assert blocks.scales is not None
        assert blocks.minimums is not None
        assert blocks.m is not None
        codes = blocks.codes.to(torch.uint8)
        parts = [_bytes(blocks.d), _bytes(blocks.m), _pack_scales(blocks.scales, blocks.minimums)]
        if bits == 5:
            parts.append(_join((codes >> 4).unflatten(1, (8, 32)), 1))
        return torch.cat([*parts, _join((codes & 15).unflatten(1, (4, 2, 32)), 4).flatten(1)], 1)

    return BlockType(kind, 32, (0, (1 << bits) - 1), (0, 63), True, unpack, pack)


def _unpack_q6_k(packed: Packed) -> Blocks:
    low = _split(packed[:, :128].unflatten(1, (2, 64)), 4, 2).unflatten(3, (2, 32)).flatten(2, 3)
    codes = low | _split(packed[:, 128:192].unflatten(1, (2, 32)), 2, 4) << 4
    scales = packed[:, 192:208].view(torch.int8)
    return Blocks(codes.flatten(1).to(torch.int8) - 32, _float16(packed, 208), None, scales)


def _pack_q6_k(blocks: Blocks) -> Packed:
    assert blocks.scales is not None
    codes = (blocks.codes + 32).to(torch.uint8).unflatten(1, (2, 4, 32))
    low = _join((codes & 15).flatten(2).unflatten(2, (2, 64)), 4).flatten(1)
    high = _join(codes >> 4, 2).flatten(1)
    return torch.cat([low, high, blocks.scales.to(torch.int8).view(torch.uint8), _bytes(blocks.d)], 1)


Kind = GGMLQuantizationType
BLOCK_TYPES: dict[GGMLQuantizationType, BlockType] = {
    kind.kind: kind
    for kind in (
        _simple(Kind.Q4_0, 4, False),
        _simple(Kind.Q4_1, 4, True),
        _simple(Kind.Q5_0, 5, False),
        _simple(Kind.Q5_1, 5, True),
        BlockType(Kind.Q8_0, 32, (-127, 127), None, False, _unpack_q8_0, _pack_q8_0),
        BlockType(Kind.Q2_K, 16, (0, 3), (0, 15), True, _unpack_q2_k, _pack_q2_k),
        BlockType(Kind.Q3_K, 16, (-4, 3), (-32, 31), False, _unpack_q3_k, _pack_q3_k),
        _with_minimums(Kind.Q4_K, 4),
        _with_minimums(Kind.Q5_K, 5),
        BlockType(Kind.Q6_K, 16, (-32, 31), (-128, 127), False, _unpack_q6_k, _pack_q6_k),
    )
}
