"""Experts of a mixture as one linear layer for each matrix of each expert: what quantization replaces one by one.

Layers of an expert are named `gate_proj.3`, `up_proj.3` and `down_proj.3`. The router, the gate of shared experts and the
sum over experts stay as they are.
"""

from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.model.frozen_linear import PackedLinear
from groundup.model.moe import Experts

MATRICES = ("gate", "up", "down")


class QuantizedExperts(nn.Module):
    """`Experts` with separate layers, quantized or not: in a pass, one expert after the other is dequantized.

    Attributes:
        gate_proj, up_proj, down_proj: a linear layer for each expert.
    """

    def __init__(self, experts: Experts):
        """The layers' weights are views of the stacked ones: no copy."""
        super().__init__()
        self.gating = experts.gating
        for name in MATRICES:
            stacked, bias = getattr(experts, f"{name}_proj"), getattr(experts, f"{name}_bias")
            biases = [None] * len(stacked) if bias is None else list(bias.detach())
            layers = (_linear(weight, bias) for weight, bias in zip(stacked.detach(), biases, strict=True))
            self.add_module(f"{name}_proj", nn.ModuleList(layers))

    def forward(self, x: Float[Tensor, "M D"], ends: Int[Tensor, " E"]) -> Float[Tensor, "M D"]:
        """Rows of `x` are sorted by expert; those of expert e end before row ends[e]."""
        outputs = [x[:0]]
        projections: list[Any] = [self.gate_proj, self.up_proj, self.down_proj]
        bounds = pairwise([0, *ends.tolist()])
        for (begin, end), gate, up, down in zip(bounds, *projections, strict=True):
            if end > begin:
                rows = x[begin:end]
                outputs.append(down(self.gating(gate(rows), up(rows))))
        return torch.cat(outputs)

    def to_experts(self) -> Experts:
        """The stacked experts with the same values."""
        stacked = Experts.__new__(Experts)
        nn.Module.__init__(stacked)
        stacked.gating = self.gating
        for name in MATRICES:
            layers = [
                layer.to_linear() if isinstance(layer, PackedLinear) else layer
                for layer in getattr(self, f"{name}_proj")
            ]
            weight = torch.stack([layer.weight.detach() for layer in layers])
            bias = None if layers[0].bias is None else torch.stack([layer.bias.detach() for layer in layers])
            stacked.register_parameter(f"{name}_proj", nn.Parameter(weight, requires_grad=False))
            stacked.register_parameter(
                f"{name}_bias", None if bias is None else nn.Parameter(bias, requires_grad=False)
            )
        return stacked


def split_experts(model: nn.Module) -> None:
    """Replace the stacked experts of a model by separate layers, in place."""
    for name, module in list(model.named_modules()):
        if type(module) is Experts:
            model.set_submodule(name, QuantizedExperts(module))


def join_experts(model: nn.Module) -> None:
    """Replace separate layers by stacked float experts, in place; the inverse of `split_experts`."""
    for name, module in list(model.named_modules()):
        if isinstance(module, QuantizedExperts):
            model.set_submodule(name, module.to_experts())


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear
