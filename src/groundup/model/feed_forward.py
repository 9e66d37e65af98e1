"""Feed-forward layers: plain and gated (GLU), with their activation functions."""

import math
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from groundup.model.matmul_precision import cast_for_matmul
from groundup.recipe import ModelConfig

Activation = Callable[[Tensor], Tensor]
Gating = Callable[[Tensor, Tensor], Tensor]
"""The product of gate and up: the input of the down projection."""


class FeedForward(nn.Module):
    """down(f(up(x))) (Vaswani et al. 2017, section 3.3)."""

    def __init__(self, width: int, intermediate_size: int, activation: Activation, bias: bool):
        super().__init__()
        self.up_proj = nn.Linear(width, intermediate_size, bias=bias)
        self.down_proj = nn.Linear(intermediate_size, width, bias=bias)
        self.activation = activation

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        return self.down_proj(self.activation(self.up_proj(x)))


class GatedFeedForward(nn.Module):
    """down(f(gate(x)) * up(x)) (Shazeer 2020, GLU variants): one more matrix, lower loss at equal cost."""

    def __init__(self, width: int, intermediate_size: int, gating: Gating, bias: bool):
        super().__init__()
        self.gate_proj = nn.Linear(width, intermediate_size, bias=bias)
        self.up_proj = nn.Linear(width, intermediate_size, bias=bias)
        self.down_proj = nn.Linear(intermediate_size, width, bias=bias)
        self.gating = gating

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        x = cast_for_matmul(x)
        return self.down_proj(self.gating(self.gate_proj(x), self.up_proj(x)))


class XIELU(nn.Module):
    """a x^2 + b x for x > 0, else n (e^x - 1 - x) + b x, with learned a and n > b (Huang & Schlag 2024, xIELU)."""

    beta, eps = 0.5, -1e-6

    def __init__(self) -> None:
        super().__init__()
        self.alpha_p, self.alpha_n = nn.Parameter(torch.empty(1)), nn.Parameter(torch.empty(1))

    def reset_parameters(self) -> None:
        """a = n = 0.8, as Apertus; both are stored before the softplus that keeps them positive."""
        nn.init.constant_(self.alpha_p, math.log(math.expm1(0.8)))
        nn.init.constant_(self.alpha_n, math.log(math.expm1(0.8 - self.beta)))

    def forward(self, x: Float[Tensor, "... F"]) -> Float[Tensor, "... F"]:
        positive, negative = F.softplus(self.alpha_p), self.beta + F.softplus(self.alpha_n)
        below = negative * (torch.expm1(x.clamp(max=self.eps)) - x)
        return torch.where(x > 0, positive * x * x, below) + self.beta * x


def relu2(x: Float[Tensor, "... F"]) -> Float[Tensor, "... F"]:
    """max(x, 0)^2 (So et al. 2021, Primer)."""
    return F.relu(x).square()


def gate_by_activation(
    gate: Float[Tensor, "... F"], up: Float[Tensor, "... F"], activation: Activation
) -> Float[Tensor, "... F"]:
    """f(gate) * up."""
    return activation(gate) * up


def gate_clamped(
    gate: Float[Tensor, "... F"], up: Float[Tensor, "... F"], alpha: float, limit: float
) -> Float[Tensor, "... F"]:
    """gate * sigmoid(alpha gate) * (up + 1), with gate at most `limit` and up between -limit and limit (gpt-oss)."""
    gate = gate.clamp(max=limit)
    return gate * torch.sigmoid(alpha * gate) * (up.clamp(-limit, limit) + 1)


ACTIVATIONS: dict[str, Activation] = {
    "swiglu": F.silu,
    "geglu": F.gelu,
    "geglu_tanh": partial(F.gelu, approximate="tanh"),
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "relu2": relu2,
    "silu": F.silu,
}


def build_feed_forward(config: ModelConfig) -> nn.Module:
    """The feed-forward layer of `config.feed_forward`."""
    sizes = (config.hidden_size, config.intermediate_size)
    if config.gated:
        return GatedFeedForward(*sizes, build_gating(config), config.feed_forward_bias)
    activation = XIELU() if config.feed_forward == "xielu" else ACTIVATIONS[config.feed_forward]
    return FeedForward(*sizes, activation, config.feed_forward_bias)


def build_gating(config: ModelConfig) -> Gating:
    """The product of gate and up of a gated `config.feed_forward`."""
    if config.feed_forward == "swiglu_clamped":
        return partial(gate_clamped, alpha=config.swiglu_alpha, limit=config.swiglu_limit)
    return partial(gate_by_activation, activation=ACTIVATIONS[config.feed_forward])
