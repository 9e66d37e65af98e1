"""A model with nothing in it yet, so that weights can be put in without initialising any in vain."""

import torch
from torch import nn

from groundup.model import build_model
from groundup.model.rope import RotaryEmbedding
from groundup.recipe import ModelConfig


def build_meta_model(config: ModelConfig, device: torch.device | str) -> nn.Module:
    """The model that `config` describes, its weights without memory; only what it computes itself is on
    `device`.
    """
    with torch.device("meta"):
        model = build_model(config)
    for module in model.modules():
        if isinstance(module, RotaryEmbedding):
            module.to_empty(device=device)
    return model.requires_grad_(False)
