"""Weight initialization: GPT-2's scheme, with muP for models of any width.

Matrices and embeddings are drawn from N(0, init_std^2), with init_std = 0.02 as in GPT-2; norms start as identities and
biases at zero. The projections into the residual stream (o_proj, down_proj) start smaller by sqrt(2 num_layers): the
stream is a sum of 2 num_layers of them, and so starts with the same size at any depth (Radford et al. 2019, section 2.3).

With mup_base_width, knobs tuned at that width transfer to any width reached by adding heads (Yang et al. 2022, Tensor
Programs V, table 8, for Adam). For a model m times as wide as the base:

    matrices of the blocks    initial deviation / sqrt(m), learning rate / m
    embeddings and head       unchanged, and the last hidden state / m before the head

The optimizer applies the learning rate: it divides that of the blocks' matrices by `ModelConfig.width_multiplier`.
"""

import math

import torch
from torch import nn

from groundup.model.attention import SinkAttention
from groundup.model.feed_forward import XIELU
from groundup.model.gated_delta import GatedDeltaNet
from groundup.model.head import Head, UntiedHead
from groundup.model.moe import Experts
from groundup.model.norm import RMSNorm
from groundup.model.state_space import GatedGroupNorm, StateSpaceMixer
from groundup.recipe import ModelConfig

RESIDUAL_PROJECTIONS = ("o_proj", "down_proj")
"""Projections into the residual stream."""


@torch.no_grad()
def init_weights(model: nn.Module, config: ModelConfig) -> None:
    """Initialize every weight of `model`, in the order of its modules."""
    matrix = config.init_std / math.sqrt(config.width_multiplier)
    residual = matrix / math.sqrt(2 * config.num_layers) if config.depth_scaled_init else matrix
    for name, module in model.named_modules():
        attribute = name.rsplit(".", 1)[-1]
        if isinstance(module, nn.Embedding | UntiedHead):
            nn.init.normal_(module.weight, std=config.init_std)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=residual if attribute in RESIDUAL_PROJECTIONS else matrix)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, Experts):
            nn.init.normal_(module.gate_proj, std=matrix)
            nn.init.normal_(module.up_proj, std=matrix)
            nn.init.normal_(module.down_proj, std=residual)
            for bias in (module.gate_bias, module.up_bias, module.down_bias):
                if bias is not None:
                    nn.init.zeros_(bias)
        elif isinstance(module, SinkAttention):
            nn.init.zeros_(module.sinks)
        elif isinstance(module, GatedGroupNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, RMSNorm | nn.LayerNorm | StateSpaceMixer | GatedDeltaNet | XIELU):
            module.reset_parameters()
        if isinstance(module, Head) and module.bias is not None:
            nn.init.zeros_(module.bias)
