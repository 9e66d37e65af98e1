"""Packing of codes of 1 to 8 bits into uint8 or int32 words: one stream of bits, low bits first, without gaps."""

import torch
from torch import Tensor
from torch.nn import functional as F

WORD_BITS = {torch.uint8: 8, torch.int32: 32}


def pack_codes(codes: Tensor, bits: int, word: torch.dtype, dim: int = -1) -> Tensor:
    """Pack neighbours along `dim` into words: eight codes of 3 bits in 3 bytes, 32 of them in 3 int32 words.

    Args:
        codes: integers from 0 to 2**bits - 1. The last uint8 word may hold fewer codes; int32 words must be filled.
    """
    codes = codes.movedim(dim, -1)
    count = codes.shape[-1]
    if count * bits % 32 and word is torch.int32:
        raise ValueError(f"{count} codes of {bits} bits do not fill words of 32 bits")
    codes = codes.to(torch.uint8)
    if bits == 8:  # a code is a byte
        return _words(codes, word).movedim(-1, dim).contiguous()
    codes = F.pad(codes, (0, -count % 8)).unflatten(-1, (-1, 8))
    stream = torch.zeros(codes.shape[:-1], dtype=torch.int64, device=codes.device)
    for index in range(8):  # eight codes fill `bits` bytes
        stream |= codes[..., index].long() << bits * index
    packed = stream[..., None].view(torch.uint8)[..., :bits].flatten(-2)[..., : -(-count * bits // 8)]
    return _words(packed, word).movedim(-1, dim).contiguous()


def _words(packed: Tensor, word: torch.dtype) -> Tensor:
    """Bytes as words: copied where they are wider, since a dimension of size 1 may have any stride."""
    return packed if word is torch.uint8 else packed.clone(memory_format=torch.contiguous_format).view(word)


def unpack_codes(words: Tensor, bits: int, dim: int = -1, count: int | None = None) -> Tensor:
    """The codes in `words`, as uint8; inverse of `pack_codes`.

    Args:
        count: codes along `dim`; default: as many as the words hold.
    """
    packed = words.movedim(dim, -1).contiguous().view(torch.uint8)
    count = packed.shape[-1] * 8 // bits if count is None else count
    if 8 % bits == 0:
        shifts = bits * torch.arange(8 // bits, device=words.device, dtype=torch.uint8)
        codes = ((packed[..., None] >> shifts) & (2**bits - 1)).flatten(-2)
    else:
        packed = F.pad(packed, (0, -packed.shape[-1] % bits)).unflatten(-1, (-1, bits))
        stream = F.pad(packed, (0, 8 - bits)).view(torch.int64)
        codes = torch.cat([((stream >> bits * index) & (2**bits - 1)).to(torch.uint8) for index in range(8)], -1)
        codes = codes.flatten(-2)
    return codes[..., :count].movedim(-1, dim).contiguous()
