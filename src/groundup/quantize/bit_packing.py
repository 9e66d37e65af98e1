"""Packing of 4-bit and 8-bit codes into uint8 or int32 words, low bits first."""

import torch
from torch import Tensor

WORD_BITS = {torch.uint8: 8, torch.int32: 32}


def pack_codes(codes: Tensor, bits: int, word: torch.dtype, dim: int = -1) -> Tensor:
    """Pack 8 / bits (uint8) or 32 / bits (int32) neighbours along `dim` into each word.

    Args:
        codes: integers from 0 to 2**bits - 1; their count along `dim` must fill the words.
    """
    count = WORD_BITS[word] // bits
    codes = codes.to(torch.int64).movedim(dim, -1)
    if codes.shape[-1] % count:
        raise ValueError(f"{codes.shape[-1]} codes of {bits} bits do not fill words of {WORD_BITS[word]} bits")
    shifts = bits * torch.arange(count, device=codes.device)
    words = (codes.unflatten(-1, (-1, count)) << shifts).sum(-1)
    if word is torch.int32:
        words = words - ((words >> 31) << 32)  # two's complement: the top bit is the sign
    return words.to(word).movedim(-1, dim).contiguous()


def unpack_codes(words: Tensor, bits: int, dim: int = -1) -> Tensor:
    """The codes in `words`, as uint8; inverse of `pack_codes`."""
    count = WORD_BITS[words.dtype] // bits
    shifts = bits * torch.arange(count, device=words.device, dtype=words.dtype)
    codes = (words.movedim(dim, -1)[..., None] >> shifts) & (2**bits - 1)
    return codes.flatten(-2).to(torch.uint8).movedim(-1, dim).contiguous()
