"""Stochastic rounding, which preserves small updates on average.

bfloat16 weights near 1 are 0.004 or more apart, so rounding to nearest loses every update of 0.0001. Rounded up with
probability 1/40, it is right on average (Gupta et al. 2015, "Deep Learning with Limited Numerical Precision"; for bfloat16
weights Zamirai et al. 2020, "Revisiting BFloat16 Training").
"""

import torch
from torch import Tensor

DROPPED_BITS = {torch.bfloat16: 16, torch.float8_e4m3fn: 20}
"""Bits of a float32's mantissa that the format does not have."""


def stochastic_round(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x`, float32, as `dtype`: each value becomes one of its two neighbours, so that the expectation is `x`.

    Uses torch's generator of the device. Values must be in the range of `dtype`; subnormal ones are rounded to nearest.
    """
    bits = DROPPED_BITS[dtype]
    chance = torch.randint_like(x, 1 << bits, dtype=torch.int32)
    pattern = x.contiguous().view(torch.int32).add(chance).bitwise_and_(-1 << bits)
    return pattern.view(torch.float32).to(dtype)
