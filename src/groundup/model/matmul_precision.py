"""Mixed precision: the dtype of matrix products under autocast."""

import torch
from jaxtyping import Float
from torch import Tensor


def matmul_dtype(x: Tensor) -> torch.dtype:
    """The dtype of matrix products of `x`: autocast's if it is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def cast_for_matmul(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """`x` cast once for several products: autocast would cast it, and its gradient, for each of them."""
    return x.to(matmul_dtype(x))
