"""LoRA (Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models").

A frozen matrix W gets a low-rank update: W x + (alpha / r) B A x, with A (r in) and B (out r). B starts as zeros, so
training starts from the unchanged model. After training the product is added to W (section 4.1).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class LoRALinear(nn.Module):
    """A frozen linear layer with a trainable low-rank update.

    Attributes:
        base: the frozen layer.
        lora_a: (r in), initialized as in PEFT and the paper's code.
        lora_b: (out r), zeros.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.scale = alpha / rank
        options = {"device": base.weight.device, "dtype": torch.float32}
        self.lora_a = nn.Parameter(torch.empty(rank, base.in_features, **options))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank, **options))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, x: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
        addition = nn.functional.linear(nn.functional.linear(x.to(self.lora_a.dtype), self.lora_a), self.lora_b)
        y = self.base(x)
        return y + (addition * self.scale).to(y.dtype)

    @torch.no_grad()
    def merge(self) -> nn.Linear:
        """A linear layer with the update added to its weight."""
        addition = self.scale * (self.lora_b @ self.lora_a)
        self.base.weight.copy_(self.base.weight.float() + addition)
        return self.base


def merge_lora(model: nn.Module) -> nn.Module:
    """Add every update to its weight and restore linear layers, in place. All parameters become trainable."""
    for name, layer in lora_layers(model).items():
        model.set_submodule(name, layer.merge())
    return model.requires_grad_(True)


def lora_layers(model: nn.Module) -> dict[str, LoRALinear]:
    """The layers with LoRA, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}
