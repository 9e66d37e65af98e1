"""Models on the meta device, to be filled with loaded weights."""

import torch
from torch import nn

from groundup.model import build_model
from groundup.model.rope import RotaryEmbedding
from groundup.recipe import ModelConfig


def build_meta_model(config: ModelConfig, device: torch.device | str) -> nn.Module:
    """The model of `config` without weight memory; computed buffers are on `device`."""
    with torch.device("meta"):
        model = build_model(config)
    for module in model.modules():
        if isinstance(module, RotaryEmbedding):
            module.to_empty(device=device)
    return model.requires_grad_(False)
