"""Weights that cannot be quantized: numbers that are not finite, and numbers beyond float16, in which scales are stored."""

import torch
from torch import nn

from groundup.artifacts.errors import UserError

LARGEST_WEIGHT = torch.finfo(torch.float16).max


def check_weights(model: nn.Module) -> None:
    """Raises UserError for a weight of the whole model, embeddings included, that is no finite number of float16."""
    for name, weight in model.named_parameters():
        if not weight.is_floating_point() or weight.is_meta or weight.numel() == 0:
            continue
        low, high = (each.item() for each in torch.aminmax(weight.detach()))
        if not low > -torch.inf or not high < torch.inf:  # NaN too
            raise UserError(
                f"{name}: {(~torch.isfinite(weight)).sum().item():,} of {weight.numel():,} weights are not finite",
                hint="the model is damaged or its training diverged: groundup evaluate MODEL --text FILE measures it",
            )
        if (largest := max(-low, high)) > LARGEST_WEIGHT:
            raise UserError(
                f"{name}: a weight of {largest:.3g}, expected at most {LARGEST_WEIGHT:,.0f}, the largest number of float16",
                hint="the model is damaged or its training diverged: groundup evaluate MODEL --text FILE measures it",
            )
