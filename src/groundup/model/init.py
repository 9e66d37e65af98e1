"""The weights before the first step, all in one place.

Matrices and embeddings are drawn from N(0, init_std^2), with init_std = 0.02 as in GPT-2; norms begin as identities and
biases at zero. The maps that write into the residual stream (o_proj, down_proj) start smaller by sqrt(2 num_layers):
the stream sums 2 num_layers of them, and so begins with the same size at any depth (Radford et al. 2019, section 2.3).
"""

import math

import torch
from torch import nn

from groundup.recipe import ModelConfig

RESIDUAL = ("o_proj", "down_proj")
"""Maps that write into the residual stream."""


@torch.no_grad()
def init_weights(model: nn.Module, config: ModelConfig) -> None:
    """Draw every weight of `model` anew, in the order in which its parts were built."""
    depth = math.sqrt(2 * config.num_layers) if config.depth_scaled_init else 1.0
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            residual = name.rsplit(".", 1)[-1] in RESIDUAL
            nn.init.normal_(module.weight, std=config.init_std / (depth if residual else 1.0))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=config.init_std)
