"""Normalisation: keep the size of activations in check, token by token."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from groundup.recipe import ModelConfig


class RMSNorm(nn.Module):
    """x / rms(x) * weight (Zhang & Sennrich 2019): LayerNorm without the mean; T5's layer norm is one too."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(size))

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        return F.rms_norm(x, x.shape[-1:], self.weight.to(x.dtype), self.eps)


class ZeroCenteredRMSNorm(nn.Module):
    """x / rms(x) * (1 + weight), as in Gemma: weight decay then pulls the scale to one instead of zero."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(size))

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        # In float32, because 1 + weight in bfloat16 would lose most of a small weight.
        return F.rms_norm(x.float(), x.shape[-1:], 1.0 + self.weight.float(), self.eps).type_as(x)


NORMS: dict[str, Callable[[ModelConfig, int], nn.Module]] = {
    "rmsnorm": lambda config, size: RMSNorm(size, config.norm_eps),
    "zero_centered_rmsnorm": lambda config, size: ZeroCenteredRMSNorm(size, config.norm_eps),
    # (x - mean) / std * weight + bias (Ba et al. 2016)
    "layernorm": lambda config, size: nn.LayerNorm(size, config.norm_eps, bias=config.norm_bias),
}


def build_norm(config: ModelConfig, size: int) -> nn.Module:
    """The norm that `config.norm` names, over the last dimension of `size`."""
    return NORMS[config.norm](config, size)
