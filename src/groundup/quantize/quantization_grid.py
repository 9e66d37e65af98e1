"""Quantization grids: equally spaced values for each group of weights in a row.

A code q from 0 to 2**bits - 1 represents the weight (q - zero) * scale. Symmetric grids have a fixed zero in the middle
and store only the scale. Scales are rounded to float16 first, so that every file format stores them exactly.
"""

from dataclasses import dataclass, replace
from math import gcd
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from groundup.artifacts.errors import UserError

SMALLEST_SCALE = 2.0**-20
"""Smaller scales lose precision in float16; a group of weights that small rounds to zeros."""

WHOLE_ROW = -1
"""The group size with one scale per row."""


@dataclass(frozen=True)
class QuantizationScheme:
    """Bit width, group size and symmetry of quantized weights.

    Attributes:
        bits: bits of a code, 2 to 8.
        group_size: consecutive weights of a row with one scale, or WHOLE_ROW. The last group of a row may be shorter.
        symmetric: zero is the middle code and not stored.
        values: what codes stand for: equally spaced values ("integer"), the bytes of "float8", or "nf4".
        input_bits: bits of the layer's inputs, rounded for each token as they come; None: the inputs are not rounded.

    Raises UserError for other values.
    """

    bits: int = 4
    group_size: int = 128
    symmetric: bool = True
    values: str = "integer"
    input_bits: int | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise UserError(f"bits = {self.bits}, expected 2 to 8")
        if self.group_size != WHOLE_ROW and self.group_size < 1:
            raise UserError(f"group_size = {self.group_size}, expected a number above 0, or {WHOLE_ROW} for whole rows")

    @property
    def max_code(self) -> int:
        """The largest code."""
        return 2**self.bits - 1

    @property
    def mid_code(self) -> int:
        """The zero of a symmetric grid."""
        return 2 ** (self.bits - 1)

    def group_width(self, width: int) -> int:
        """Weights of a full group in rows of `width`."""
        return width if self.group_size == WHOLE_ROW else min(self.group_size, width)

    def num_groups(self, width: int) -> int:
        """Groups of a row of `width` weights."""
        return -(-width // self.group_width(width))

    def group_index(self, width: int) -> Tensor:
        """The group of each of `width` weights, int64 (width)."""
        return torch.arange(width) // self.group_width(width)

    def stored_bits(self, rows: int, width: int) -> int:
        """Bits of a (rows width) matrix: codes, scales (16 bits) and, if stored, zeros (8 bits)."""
        packed = -(-width * self.bits // 8) * 8
        return rows * (packed + self.num_groups(width) * (16 if self.symmetric else 24))


def integer_scheme(scheme: QuantizationScheme) -> QuantizationScheme:
    """Equally spaced values with the bits and groups of `scheme`, inputs as they are: what a method is compared with."""
    return replace(scheme, values="integer", input_bits=None)


@dataclass(frozen=True)
class QuantizedWeight:
    """A quantized matrix.

    Attributes:
        codes: uint8 (out in).
        scale: float16 (out groups).
        zero: uint8 (out groups).
        g_idx: int32 (in), the group of each column where groups are not neighbours, as in some GPTQ files.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor
    scheme: QuantizationScheme
    g_idx: Tensor | None = None

    def dequantize(self) -> Tensor:
        """The represented matrix: float32 (out in)."""
        return dequantize_weight(self.codes, self.scale, self.zero, self.scheme, g_idx=self.g_idx)

    def split_rows(self, sizes: list[int]) -> "list[QuantizedWeight]":
        """The matrices of consecutive rows."""
        parts = zip(self.codes.split(sizes), self.scale.split(sizes), self.zero.split(sizes), strict=True)
        return [QuantizedWeight(codes, scale, zero, self.scheme, self.g_idx) for codes, scale, zero in parts]

    def with_equal_groups(self, group_size: int | None = None) -> "QuantizedWeight":
        """The same weights in equal groups: scales and zeros repeated for smaller groups, which divide the width.

        576 weights in groups of 128 and a last one of 64 become nine groups of 64.

        Args:
            group_size: a common divisor of the groups; default: the largest one.

        Raises UserError for a size that does not divide the groups, and for groups by `g_idx`.
        """
        width = self.codes.shape[1]
        full = self.scheme.group_width(width)
        largest = gcd(full, width)
        size = largest if group_size is None else group_size
        if self.g_idx is not None or size < 1 or largest % size:
            raise UserError(
                f"groups of {full} in rows of {width} weights cannot be split into groups of {size}",
                hint="quantize with another group_size",
            )
        index = torch.arange(0, width, size, device=self.scale.device) // full
        scheme = replace(self.scheme, group_size=size)
        return QuantizedWeight(self.codes, self.scale[:, index], self.zero[:, index], scheme)


def split_groups(weight: Tensor, scheme: QuantizationScheme) -> Tensor:
    """The groups of each row, (out groups group_width); a shorter last group is filled with zeros."""
    size = scheme.group_width(weight.shape[1])
    missing = -weight.shape[1] % size
    return (F.pad(weight, (0, missing)) if missing else weight).unflatten(1, (-1, size))


def find_params(weight: Tensor, scheme: QuantizationScheme, importance: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Scales and zeros of the grid from each group's smallest to its largest weight, or of the best smaller range.

    Args:
        weight: (out in).
        importance: (in), the mean square of each input. If given, the range of each group is the one with the least
            squared rounding error, weighted by it: a few clipped weights cost less than a coarser grid for all.

    Returns:
        scale and zero, float32 (out groups); scales are representable in float16, zeros are integers. Scales of searched
        symmetric grids may be negative: their one code more below zero then serves the larger of both ends.

    Raises UserError for weights that are not finite.
    """
    groups = split_groups(weight.float(), scheme)
    low, high = groups.aminmax(dim=2)
    if not (torch.isfinite(low).all() and torch.isfinite(high).all()):  # NaN is both
        raise UserError(
            "a weight is not finite, expected numbers", hint="the model is damaged or its training diverged"
        )
    if scheme.symmetric:
        full = 2 * torch.maximum(high, -low) / scheme.max_code
        zero = torch.full_like(full, scheme.mid_code)
    else:
        low, high = low.clamp(max=0), high.clamp(min=0)  # 0 is always on the grid
        full = (high - low) / scheme.max_code
        zero = (-low / _storable(full)).round().clamp(0, scheme.max_code)
    if importance is None:
        return _storable(full), zero
    return _search_range(groups, full, zero, split_groups(importance.float()[None], scheme), scheme)


RANGES = [1.075 - 0.025 * step for step in range(24)]
"""Parts of a group's full range that are tried."""


def _search_range(
    groups: Tensor, full: Tensor, zero: Tensor, importance: Tensor, scheme: QuantizationScheme
) -> tuple[Tensor, Tensor]:
    best_error, best_scale = torch.full_like(full, torch.inf), _storable(full)
    for part in RANGES:
        for sign in (1, -1) if scheme.symmetric else (1,):
            scale = _storable(full * part) * sign
            error = (groups / scale[:, :, None]).round_().clamp_(*_ends(zero, scheme))
            error.mul_(scale[:, :, None]).sub_(groups)
            error = error.square_().mul_(importance).sum(2)
            better = error < best_error
            best_error, best_scale = torch.where(better, error, best_error), torch.where(better, scale, best_scale)
    return best_scale, zero


def _ends(zero: Tensor, scheme: QuantizationScheme) -> tuple[Any, Any]:
    """The first and the last code less the zero."""
    if scheme.symmetric:
        return -scheme.mid_code, scheme.max_code - scheme.mid_code
    return -zero[:, :, None], scheme.max_code - zero[:, :, None]


def _storable(scale: Tensor) -> Tensor:
    """The nearest scales that float16 represents precisely, as float32."""
    return scale.clamp(SMALLEST_SCALE, torch.finfo(torch.float16).max).half().float()


def quantize_weight(weight: Tensor, scale: Tensor, zero: Tensor, scheme: QuantizationScheme) -> Tensor:
    """The nearest code of each weight: uint8 (out in), from weight (out in) and a grid (out groups)."""
    groups = split_groups(weight.float(), scheme)
    codes = (groups / scale[:, :, None]).round_().add_(zero[:, :, None])
    return codes.clamp_(0, scheme.max_code).to(torch.uint8).flatten(1)[:, : weight.shape[1]].contiguous()


def round_to_nearest(weight: Tensor, scheme: QuantizationScheme, importance: Tensor | None = None) -> QuantizedWeight:
    """`weight` (out in) rounded to the grid of each group (RTN): the baseline method; `importance` as in `find_params`.

    Raises UserError for weights that are not finite.
    """
    scale, zero = find_params(weight, scheme, importance)
    return QuantizedWeight(quantize_weight(weight, scale, zero, scheme), scale.half(), zero.byte(), scheme)


def dequantize_weight(
    codes: Tensor,
    scale: Tensor,
    zero: Tensor,
    scheme: QuantizationScheme,
    dtype: torch.dtype = torch.float32,
    g_idx: Tensor | None = None,
) -> Tensor:
    """The represented weights (out in), computed in float32 from codes (out in) and a grid (out groups)."""
    if scheme.values == "float8":
        return (codes.view(torch.float8_e4m3fn).float() * scale.float()).to(dtype)
    if g_idx is not None:
        index = g_idx.long()
        return ((codes.float() - zero.float()[:, index]) * scale.float()[:, index]).to(dtype)
    groups = split_groups(codes, scheme).float()
    weight = ((groups - zero.float()[:, :, None]) * scale.float()[:, :, None]).flatten(1)
    return weight[:, : codes.shape[1]].to(dtype)
