"""The one thing that the model knows of mixed precision."""

import torch
from jaxtyping import Float
from torch import Tensor


def matmul_dtype(x: Tensor) -> torch.dtype:
    """The dtype that matrix products of `x` will run in: autocast's where it is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def cast_for_matmul(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """`x` cast once where several products share it: autocast would cast it, and its gradient, for each."""
    return x.to(matmul_dtype(x))
