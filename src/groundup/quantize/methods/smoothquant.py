"""SmoothQuant (Xiao et al. 2022, "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models").

Inputs in 8 bits share one scale for all channels of a token, and a few channels are a hundred times larger than the rest. Each
input channel is divided by s, and its weights multiplied by s, so that both are about equally hard to round (equation 4):

    s_j = max |X_j|^a / max |W_j|^(1 - a)

The division is folded into the preceding norm or matrix, as in AWQ. Weights and inputs are then rounded to nearest.
"""

import torch
from torch import Tensor

MIGRATION = 0.5
"""a: how much of the difficulty moves from the inputs to the weights."""


def smoothing_scales(weights: list[Tensor], max_abs: Tensor) -> Tensor:
    """The scale of each input channel, (in), of matrices (out in) with the same inputs, whose largest magnitudes are `max_abs`.

    Channels without inputs or weights keep the scale 1.
    """
    of_weights = torch.stack([weight.abs().amax(0) for weight in weights]).amax(0)
    scales = max_abs.float() ** MIGRATION / of_weights.clamp(min=1e-5) ** (1 - MIGRATION)
    return torch.where((max_abs > 0) & (of_weights > 0), scales, 1.0).clamp(1e-4, 1e4)
