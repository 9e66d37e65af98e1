"""Precision of training: autocast to bfloat16, bfloat16 weights, float8 matrix products.

Float8 has twice the rate of bfloat16 on hardware with support. Both factors are scaled per tensor to the format's largest
value, measured each time (dynamic scaling; Micikevicius et al. 2022, "FP8 Formats for Deep Learning"): weights and
activations in E4M3, gradients, with a wider range, in E5M2. Weights and optimizer stay float32. Embedding and head,
the most sensitive layers and no `nn.Linear`, stay in bfloat16.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from groundup.artifacts.errors import UserError
from groundup.recipe.train_config import Precision

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
DIM_MULTIPLE = 16
"""Every dimension of a float8 product must be a multiple of this."""
MIN_CUDA_CAPABILITY = (8, 9)
"""The first CUDA devices with float8 products: Ada, then Hopper."""


def prepare_weights(model: nn.Module, precision: Precision, device: torch.device) -> None:
    """Convert weights or linear layers for the precisions that autocast does not cover.

    Raises UserError for float8 on a device without support.
    """
    if precision == "float8":
        require_float8(device)
        convert_to_float8_training(model)
    if precision == "bfloat16-pure":
        for weight in model.parameters():  # not the buffers: rotary tables need float32
            weight.data = weight.data.to(torch.bfloat16)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Context of matrix products in bfloat16; no-op for float32."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def require_float8(device: torch.device) -> None:
    """Raises UserError if the device has no float8 products."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= MIN_CUDA_CAPABILITY:
        return
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    raise UserError(
        f"train.precision = float8: needs a CUDA device of compute capability 8.9 or higher (RTX 4090, H100), found {name}",
        hint="set train.precision=bfloat16",
    )


def convert_to_float8_training(model: nn.Module) -> int:
    """Convert the linear layers of `model` to float8 products; returns their number. Names and weights stay."""
    # No subclasses of nn.Linear: the router of experts computes in float32.
    layers = [
        layer
        for layer in model.modules()
        if type(layer) is nn.Linear and layer.in_features % DIM_MULTIPLE == 0 and layer.out_features % DIM_MULTIPLE == 0
    ]
    for layer in layers:
        layer.__class__ = Float8Linear
    return len(layers)


class Float8Linear(nn.Linear):
    """A linear layer with float32 weights and float8 products."""

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... F"]:
        rows = x.flatten(0, -2)
        if rows.shape[0] % DIM_MULTIPLE:
            return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))
        y = _Float8Matmul.apply(rows.to(torch.bfloat16), self.weight).unflatten(0, x.shape[:-1])  # type: ignore[union-attr]
        return y if self.bias is None else y + self.bias.to(y.dtype)


class _Float8Matmul(torch.autograd.Function):
    """x (N D), W (F D) -> x W^T (N F)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        x8, x_scale = to_float8(x, E4M3)
        w8, w_scale = to_float8(weight, E4M3)
        ctx.save_for_backward(x8, x_scale, w8, w_scale)
        ctx.dtype = weight.dtype
        return float8_matmul(x8, x_scale, w8.t(), w_scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        x8, x_scale, w8, w_scale = ctx.saved_tensors
        g8, g_scale = to_float8(gradient, E5M2)
        grad_x = float8_matmul(g8, g_scale, w8.t().contiguous().t(), w_scale)
        grad_weight = float8_matmul(g8.t().contiguous(), g_scale, x8.t().contiguous().t(), x_scale)
        return grad_x, grad_weight.to(ctx.dtype)


def to_float8(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`x` as float8 values and one float32 scale: x is approximately values * scale."""
    scale = (x.abs().amax().float() / torch.finfo(dtype).max).clamp(min=torch.finfo(torch.float32).tiny)
    return (x.float() / scale).clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max).to(dtype), scale


def float8_matmul(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor) -> Tensor:
    """a (N K), row-major, times b (K M), column-major; bfloat16."""
    return torch._scaled_mm(a, b, scale_a=a_scale, scale_b=b_scale, out_dtype=torch.bfloat16)
