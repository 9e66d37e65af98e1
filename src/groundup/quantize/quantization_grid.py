"""Quantization grids: equally spaced values for each group of weights in a row.

A code q from 0 to 2**bits - 1 represents the weight (q - zero) * scale. Symmetric grids have a fixed zero in the middle
and store only the scale. Scales are rounded to float16 first, so that every file format stores them exactly.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from groundup.artifacts.errors import UserError

SMALLEST_SCALE = 2.0**-20
"""Smaller scales lose precision in float16; a group of weights that small rounds to zeros."""


@dataclass(frozen=True)
class QuantizationScheme:
    """Bit width, group size and symmetry of quantized weights.

    Attributes:
        bits: bits of a code, 4 or 8.
        group_size: consecutive weights of a row with one scale.
        symmetric: zero is the middle code and not stored.
    """

    bits: int = 4
    group_size: int = 128
    symmetric: bool = True

    @property
    def max_code(self) -> int:
        """The largest code."""
        return 2**self.bits - 1

    @property
    def mid_code(self) -> int:
        """The zero of a symmetric grid."""
        return 2 ** (self.bits - 1)

    @property
    def bits_per_weight(self) -> float:
        """Bits of the code, and of the group's scale (16 bits) and zero (8 bits, if stored) per weight."""
        return self.bits + (16 if self.symmetric else 24) / self.group_size


@dataclass(frozen=True)
class QuantizedWeight:
    """A quantized matrix.

    Attributes:
        codes: uint8 (out in).
        scale: float16 (out groups).
        zero: uint8 (out groups).
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor
    scheme: QuantizationScheme

    def dequantize(self) -> Tensor:
        """The represented matrix: float32 (out in)."""
        return dequantize_weight(self.codes, self.scale, self.zero)


def find_params(weight: Tensor, scheme: QuantizationScheme) -> tuple[Tensor, Tensor]:
    """Scales and zeros of the grid from each group's smallest to its largest weight.

    Args:
        weight: (out in), `in` a multiple of the group size.

    Returns:
        scale and zero, float32 (out groups); scales are representable in float16, zeros are integers.

    Raises UserError for weights that are not finite.
    """
    groups = weight.float().unflatten(1, (-1, scheme.group_size))
    if not torch.isfinite(groups).all():
        raise UserError(
            "a weight is not finite, expected numbers", hint="the model is damaged or its training diverged"
        )
    if scheme.symmetric:
        scale = _storable(2 * groups.abs().amax(2) / scheme.max_code)
        return scale, torch.full_like(scale, scheme.mid_code)
    low, high = groups.amin(2).clamp(max=0), groups.amax(2).clamp(min=0)  # 0 is always on the grid
    scale = _storable((high - low) / scheme.max_code)
    return scale, (-low / scale).round().clamp(0, scheme.max_code)


def _storable(scale: Tensor) -> Tensor:
    """The nearest scales that float16 represents precisely, as float32."""
    return scale.clamp(SMALLEST_SCALE, torch.finfo(torch.float16).max).half().float()


def quantize_weight(weight: Tensor, scale: Tensor, zero: Tensor, scheme: QuantizationScheme) -> Tensor:
    """The nearest code of each weight: uint8 (out in), from weight (out in) and a grid (out groups)."""
    groups = weight.float().unflatten(1, (scale.shape[1], -1))
    codes = (groups / scale[:, :, None]).round() + zero[:, :, None]
    return codes.clamp(0, scheme.max_code).to(torch.uint8).flatten(1)


def round_to_nearest(weight: Tensor, scheme: QuantizationScheme) -> QuantizedWeight:
    """`weight` (out in) rounded to the grid of each group (RTN): the baseline method, without calibration.

    Raises UserError for weights that are not finite.
    """
    scale, zero = find_params(weight, scheme)
    return QuantizedWeight(quantize_weight(weight, scale, zero, scheme), scale.half(), zero.byte(), scheme)


def dequantize_weight(codes: Tensor, scale: Tensor, zero: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The represented weights (out in), computed in float32 from codes (out in) and a grid (out groups)."""
    groups = codes.unflatten(1, (scale.shape[1], -1)).float()
    return ((groups - zero.float()[:, :, None]) * scale.float()[:, :, None]).flatten(1).to(dtype)
