"""NF4, the 4-bit normal float, with double quantization (Dettmers et al. 2023, "QLoRA", sections 2 and 3).

Trained weights are nearly normal. The 16 values are quantiles of a normal distribution, scaled to [-1, 1], with an exact
zero: 8 from the negative half and 9 from the positive one, which share it. A block of 64 weights is divided by its largest
magnitude, its scale, and each weight becomes the nearest value:

    w = value[code] * scale,      scale = dynamic[scale_code] * scale_of_scales + mean

The scales themselves, less their mean, are quantized to 8 bits in blocks of 256 (double quantization): 4 + 8/64 + 32/(64 * 256)
= 4.127 bits per weight. Their 256 values are the dynamic ones of 8-bit optimizers (Dettmers et al. 2022, section 1.3):
a sign, a power of ten from 1e-6 to 1, and 2^i equal steps in the i-th of them.

Codes, blocks and bytes are laid out as in bitsandbytes: matrices by rows, two codes in a byte, the first in the high half.
"""

from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.quantize.quantization_grid import QuantizationScheme

BLOCK, SCALE_BLOCK = 64, 256
"""Weights with one scale, and scales with one scale of their own."""
NF4 = QuantizationScheme(4, BLOCK, values="nf4")
TAIL = 0.9677083
"""The outermost quantile: halfway between 1 - 1/32 and 1 - 1/30 (appendix E), so that the ends are finite."""
QUANTIZED_AT_ONCE = 1 << 22
"""Weights per pass: the distances of all weights of a large matrix would take many times its memory."""


@dataclass(frozen=True)
class NF4Weight:
    """A quantized matrix.

    Attributes:
        codes: uint8 (weights / 2), two codes each.
        scale_codes: uint8 (blocks).
        scale_of_scales: float32 (blocks / 256, rounded up).
        mean: float32, a scalar: of the scales.
        shape: (out in).
    """

    codes: Tensor
    scale_codes: Tensor
    scale_of_scales: Tensor
    mean: Tensor
    shape: tuple[int, int]
    scheme = NF4

    def dequantize(self) -> Tensor:
        """The represented matrix: float32 (out in)."""
        return dequantize_nf4(self)

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scale_codes.nbytes + self.scale_of_scales.nbytes + self.mean.nbytes


@cache
def nf4_values() -> Tensor:
    """The 16 values in ascending order, float32."""
    negative = torch.special.ndtri(torch.linspace(1 - TAIL, 0.5, 8, dtype=torch.float64))
    positive = torch.special.ndtri(torch.linspace(0.5, TAIL, 9, dtype=torch.float64))
    values = torch.cat([negative, positive[1:]]).float()
    return values / values[-1]


@cache
def dynamic_values() -> Tensor:
    """The 256 values of scales in ascending order, float32."""
    magnitudes = []
    for power in range(7):
        bounds = torch.linspace(0.1, 1, 2**power + 1)
        magnitudes.append(10.0 ** (power - 6) * (bounds[:-1] + bounds[1:]) / 2)
    positive = torch.cat(magnitudes)
    return torch.cat([-positive, torch.tensor([0.0, 1.0]), positive]).sort().values


def quantize_nf4(weight: Float[Tensor, "out in"]) -> NF4Weight:
    """`weight` in NF4. Raises UserError for weights that are not finite, or a number of them that 64 does not divide."""
    if weight.numel() % BLOCK:
        raise UserError(
            f"a matrix of {tuple(weight.shape)}: {weight.numel()} weights, expected a multiple of {BLOCK}",
            hint="finetune.method=lora keeps the base in floating point",
        )
    blocks = weight.detach().reshape(-1, BLOCK)
    codes = torch.empty(len(blocks), BLOCK // 2, dtype=torch.uint8, device=weight.device)
    scales = torch.empty(len(blocks), device=weight.device)
    for begin in range(0, len(blocks), QUANTIZED_AT_ONCE // BLOCK):
        part = slice(begin, begin + QUANTIZED_AT_ONCE // BLOCK)
        rows = blocks[part].float()
        scales[part] = rows.abs().amax(1)
        nearest = _nearest(rows / scales[part, None].clamp(min=1e-30), nf4_values().to(rows.device))
        codes[part] = nearest[:, ::2] << 4 | nearest[:, 1::2]
    if not scales.isfinite().all():
        raise UserError(
            "a weight is not finite, expected numbers", hint="the model is damaged or its training diverged"
        )
    mean = scales.mean()
    padding = -len(scales) % SCALE_BLOCK
    groups = torch.nn.functional.pad(scales - mean, (0, padding)).unflatten(0, (-1, SCALE_BLOCK))
    scale_of_scales = groups.abs().amax(1)
    scale_codes = _nearest(groups / scale_of_scales[:, None].clamp(min=1e-30), dynamic_values().to(groups.device))
    shape = (weight.shape[0], weight.shape[1])
    return NF4Weight(codes.flatten(), scale_codes.flatten()[: len(scales)], scale_of_scales, mean, shape)


def dequantize_scales(weight: NF4Weight) -> Float[Tensor, " blocks"]:
    """The scale of each block, float32."""
    values = dynamic_values().to(weight.codes.device)[weight.scale_codes.int()]
    return values * weight.scale_of_scales.repeat_interleave(SCALE_BLOCK)[: len(values)] + weight.mean


def dequantize_nf4(weight: NF4Weight, dtype: torch.dtype = torch.float32) -> Float[Tensor, "out in"]:
    """The represented matrix. In half precision, values and scales are rounded before they are multiplied."""
    words, table = _words(weight.codes, dtype)
    values = table.index_select(0, words).view(dtype).view(-1, BLOCK)
    return values.mul_(dequantize_scales(weight).to(dtype)[:, None]).view(weight.shape)


def _words(codes: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(indices, table): one look-up of 8 bytes gives the two float32, or four 16-bit values, of one or two bytes of codes."""
    if dtype.itemsize == 4:
        return codes.int(), _table(codes.device, dtype, 1)
    return codes.view(torch.int16).int() & 0xFFFF, _table(codes.device, dtype, 2)


@cache
def _table(device: torch.device, dtype: torch.dtype, count: int) -> Tensor:
    """The values of each word of `count` bytes, the first byte in the low half, as int64."""
    word = torch.arange(256**count)
    codes = [half for byte in range(count) for half in (word >> (8 * byte + 4) & 15, word >> 8 * byte & 15)]
    return nf4_values()[torch.stack(codes, dim=1)].to(dtype).view(torch.int64).flatten().to(device)


def _nearest(x: Tensor, values: Tensor) -> Tensor:
    """Index of the nearest of ascending `values`, uint8."""
    return torch.bucketize(x, (values[1:] + values[:-1]) / 2).to(torch.uint8)
