"""Weights in float8 (E4M3: sign, 4 bits of exponent, 3 of mantissa; Micikevicius et al. 2022, "FP8 Formats for Deep Learning",
section 3), with one scale for each row.

A row is divided by its scale, such that its largest magnitude becomes 448, the largest number of the format. The relative error
of a weight is then at most 1/16 down to 1/28,672 of that, where codes at equal distances round small weights coarsely. A code is
the byte of its number; the layer is QuantizedLinear.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.quantize.quantization_grid import WHOLE_ROW, QuantizationScheme, QuantizedWeight

FLOAT8 = QuantizationScheme(8, WHOLE_ROW, values="float8")
LARGEST = torch.finfo(torch.float8_e4m3fn).max
SMALLEST_SCALE = 2.0**-17
"""Scales from here on are exact in float16 if they are in bfloat16; files have either."""


def quantize_float8(weight: Float[Tensor, "out in"]) -> QuantizedWeight:
    """`weight` rounded to float8. Raises UserError for weights that are not finite."""
    weight = weight.detach().float()
    largest = weight.abs().amax(1, keepdim=True)
    if not largest.isfinite().all():
        raise UserError(
            "a weight is not finite, expected numbers", hint="the model is damaged or its training diverged"
        )
    scale = (largest / LARGEST).clamp(SMALLEST_SCALE, torch.finfo(torch.float16).max).bfloat16()
    values = (weight / scale.float()).clamp_(-LARGEST, LARGEST)  # a rounded scale may be smaller
    codes = values.to(torch.float8_e4m3fn).view(torch.uint8)
    return QuantizedWeight(codes, scale.half(), torch.zeros_like(scale, dtype=torch.uint8), FLOAT8)
