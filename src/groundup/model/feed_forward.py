"""Feed-forward layers: plain and gated (GLU), with their activation functions."""

from collections.abc import Callable
from functools import partial

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from groundup.model.matmul_precision import cast_for_matmul
from groundup.recipe import ModelConfig

Activation = Callable[[Tensor], Tensor]


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

    def __init__(self, width: int, intermediate_size: int, activation: Activation, bias: bool):
        super().__init__()
        self.gate_proj = nn.Linear(width, intermediate_size, bias=bias)
        self.up_proj = nn.Linear(width, intermediate_size, bias=bias)
        self.down_proj = nn.Linear(intermediate_size, width, bias=bias)
        self.activation = activation

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        x = cast_for_matmul(x)
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


def relu2(x: Float[Tensor, "... F"]) -> Float[Tensor, "... F"]:
    """max(x, 0)^2 (So et al. 2021, Primer)."""
    return F.relu(x).square()


ACTIVATIONS: dict[str, Activation] = {
    "swiglu": F.silu,
    "geglu": F.gelu,
    "geglu_tanh": partial(F.gelu, approximate="tanh"),
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu2": relu2,
}


def build_feed_forward(config: ModelConfig) -> nn.Module:
    """The feed-forward layer of `config.feed_forward`."""
    part = GatedFeedForward if config.gated else FeedForward
    activation = ACTIVATIONS[config.feed_forward]
    return part(config.hidden_size, config.intermediate_size, activation, config.feed_forward_bias)
