"""Products with a frozen matrix: a gradient for the input only, and no copy of the matrix kept for the backward pass.

Autograd keeps the matrix that a product used. Where that is a copy, because the frozen weight is cast under autocast or
dequantized, the copies of all layers would be a second model in memory. Here each pass makes its own and drops it.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from groundup.model.matmul_precision import matmul_dtype

ReadWeight = Callable[[torch.dtype], Tensor]
"""(dtype) -> the frozen matrix (out in) in that dtype."""


def frozen_product(
    x: Float[Tensor, "... in"], read_weight: ReadWeight, bias: Float[Tensor, " out"] | None
) -> Float[Tensor, "... out"]:
    """x W^T + b in the dtype of matrix products; W is read once in the forward and once in the backward pass."""
    x = x.to(matmul_dtype(x))
    bias = None if bias is None else bias.detach().to(x.dtype)
    if torch.compiler.is_compiling() or not torch.is_grad_enabled() or not x.requires_grad:
        return F.linear(x, read_weight(x.dtype), bias)
    return _FrozenProduct.apply(x, read_weight, bias)  # type: ignore[return-value]


def frozen_linear(layer: nn.Linear, x: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
    """The output of a frozen linear layer."""
    return frozen_product(x, lambda dtype: layer.weight.detach().to(dtype), layer.bias)


class PackedLinear(nn.Module):
    """y = x W^T + b, where W is stored in fewer bits and never trained. Subclasses store it.

    Attributes:
        bias: (out), or None.
        float_dtype: of the linear layer that `to_linear` makes.
        batch_invariant: compute each row as if it were alone: see generate/batch_invariance.py.
    """

    in_features: int
    out_features: int
    bias: Tensor | None
    float_dtype = torch.float32
    batch_invariant = False

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "out in"]:
        """The represented weight."""
        raise NotImplementedError

    def native_matrix(self) -> Any:
        """The matrix as compiled code reads it (generate/native); None where it has no such form."""
        return None

    def read_rows(self, index: Int[Tensor, "..."]) -> Float[Tensor, "... in"]:
        """Rows of the represented weight, in `float_dtype`."""
        return self.dequantize(self.float_dtype)[index]

    def forward(self, x: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
        return frozen_product(x, self.dequantize, self.bias)

    def to_linear(self) -> nn.Linear:
        """A frozen linear layer with the same values."""
        linear = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        linear.weight = nn.Parameter(self.dequantize(self.float_dtype), requires_grad=False)
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias, requires_grad=False)
        return linear


class _FrozenProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, read_weight: ReadWeight, bias: Tensor | None) -> Tensor:
        ctx.read_weight = read_weight
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x, read_weight(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return grad @ ctx.read_weight(grad.dtype), None, None
