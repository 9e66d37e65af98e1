"""Rounding up or down by chance, so that what is too small for one step still counts over many.

A bfloat16 weight near 1 moves in steps of 0.004 or more: an update of 0.0001 rounded to the nearest is lost every time.
Rounded up in one case of forty it is right on average (Gupta et al. 2015, "Deep Learning with Limited Numerical
Precision"; for bfloat16 weights Zamirai et al. 2020, "Revisiting BFloat16 Training").
"""

import torch
from torch import Tensor

DROPPED_BITS = {torch.bfloat16: 16, torch.float8_e4m3fn: 20}
"""Bits of a float32's mantissa that each format has no room for."""


def stochastic_round(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x`, float32, in `dtype`: each value becomes one of its two neighbours, the nearer one the more likely.

    The mean over many calls is `x`. Chance comes from torch's generator of the device; values must be in the range of
    `dtype`, and below its smallest normal number they are rounded to the nearest.
    """
    bits = DROPPED_BITS[dtype]
    chance = torch.randint_like(x, 1 << bits, dtype=torch.int32)
    pattern = x.contiguous().view(torch.int32).add(chance).bitwise_and_(-1 << bits)
    return pattern.view(torch.float32).to(dtype)
