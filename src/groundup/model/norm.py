"""Normalization layers: RMSNorm, zero-centered RMSNorm and LayerNorm; both also without weights; norms of queries and keys."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from groundup.recipe import ModelConfig


class RMSNorm(nn.Module):
    """x / rms(x) * weight (Zhang & Sennrich 2019): LayerNorm without the mean; also T5's layer norm."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(size))

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        return rms_norm(x, self.weight.to(x.dtype), self.eps)


class ZeroCenteredRMSNorm(RMSNorm):
    """x / rms(x) * (1 + weight), as in Gemma: weight decay then moves the scale to one instead of zero."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        # In float32, because 1 + weight in bfloat16 would lose most of a small weight.
        return rms_norm(x.float(), 1.0 + self.weight.float(), self.eps).type_as(x)


def rms_norm(x: Float[Tensor, "... D"], weight: Float[Tensor, " D"], eps: float) -> Float[Tensor, "... D"]:
    """x / sqrt(mean(x^2) + eps) * weight, in float32 inside.

    PyTorch has a fused kernel on accelerators and under torch.compile. On a CPU, training with it takes a dozen passes
    over memory; `_RMSNorm` takes four.
    """
    trains = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if trains and type(x) is Tensor and x.device.type == "cpu" and not torch.compiler.is_compiling():
        return _RMSNorm.apply(x, weight, eps)  # type: ignore[return-value]
    return F.rms_norm(x, x.shape[-1:], weight, eps)


class _RMSNorm(torch.autograd.Function):
    """RMSNorm on a CPU, with LayerNorm's kernel for the backward pass: with a mean of zero its gradient differs only by the
    mean of the incoming gradient, which is added back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        inverse = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return (x * inverse).mul_(weight).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        x, weight, inverse = ctx.saved_tensors
        # The kernel would sum a bfloat16 weight's gradient in bfloat16.
        wide, size, scale = grad.float(), x.shape[-1], weight.float()
        grad_x, grad_weight, _ = torch.ops.aten.native_layer_norm_backward(
            wide, x.float(), [size], torch.zeros_like(inverse), inverse, scale, None, [True, True, False]
        )
        grad_x += (wide @ scale / size)[..., None] * inverse
        return grad_x.to(x.dtype), grad_weight.to(weight.dtype), None


NORMS: dict[str, Callable[[ModelConfig, int], nn.Module]] = {
    "rmsnorm": lambda config, size: RMSNorm(size, config.norm_eps),
    "zero_centered_rmsnorm": lambda config, size: ZeroCenteredRMSNorm(size, config.norm_eps),
    # (x - mean) / std * weight + bias (Ba et al. 2016)
    "layernorm": lambda config, size: nn.LayerNorm(size, config.norm_eps, bias=config.norm_bias),
    "unweighted_rmsnorm": lambda config, size: nn.RMSNorm(size, config.norm_eps, elementwise_affine=False),
    # "Non-parametric", Groeneveld et al. 2024 (OLMo), section 2.1
    "unweighted_layernorm": lambda config, size: nn.LayerNorm(size, config.norm_eps, elementwise_affine=False),
}


class PerHeadNorm(RMSNorm):
    """RMSNorm or LayerNorm of each head, with a weight of its own (Cohere, StableLM)."""

    def __init__(self, config: ModelConfig, num_heads: int):
        super().__init__(config.head_dim * num_heads, config.norm_eps)
        self.normalize = F.layer_norm if config.norm == "layernorm" else F.rms_norm
        self.head_dim = config.head_dim

    def forward(self, x: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T K"]:
        normalized = self.normalize(x, (self.head_dim,), eps=self.eps)
        return normalized * self.weight.view(-1, 1, self.head_dim).to(x.dtype)


def build_norm(config: ModelConfig, size: int) -> nn.Module:
    """The norm of `config.norm`, over a last dimension of `size`."""
    return NORMS[config.norm](config, size)


def build_qk_norm(config: ModelConfig, num_heads: int, layer: int) -> nn.Module:
    """The norm of the queries or the keys of `num_heads` heads, as `config.qk_norm_type` says."""
    if not config.qk_norm or (config.qk_norm_type == "unweighted" and not config.rotates(layer)):
        return nn.Identity()
    if config.qk_norm_type == "unweighted":
        return nn.RMSNorm(config.head_dim, config.norm_eps, elementwise_affine=False)
    if config.qk_norm_type == "projection":
        return build_norm(config, num_heads * config.head_dim)
    if config.qk_norm_type == "per_head":
        return PerHeadNorm(config, num_heads)
    return build_norm(config, config.head_dim)
