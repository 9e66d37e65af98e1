"""Token matrices that are not one plain tensor: of which a few rows are trained, or which are stored in fewer bits.

Where a few rows are trained, the rest is neither copied nor given a gradient.

The trained part is stored beside the frozen matrix as `delta` (R D), to be added to the rows `token_indices` (adapters:
interop/adapters/trainable_tokens.py). The matrix with both is V x D, tens of millions of numbers for a few thousand trained ones.
So the embedding adds `delta` to the looked-up rows, and the loss adds hidden delta^T to the logits of those tokens.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from groundup.model.frozen_linear import PackedLinear


class TokenRows(NamedTuple):
    """Updates of some rows of a token matrix."""

    token_indices: Int[Tensor, " R"]
    delta: Float[Tensor, "R D"]


def split_token_rows(table: nn.Module) -> tuple[Float[Tensor, "V D"], TokenRows | None]:
    """The frozen matrix and the updates of its rows; the whole matrix and None where it is not stored in two parts."""
    if parametrize.is_parametrized(table, "weight"):
        stored: Any = table.parametrizations["weight"]  # type: ignore[index]
        update, frozen = stored[0], stored.original
        if len(stored) == 1 and hasattr(update, "delta") and not frozen.requires_grad:
            return frozen, TokenRows(update.token_indices, update.delta) if update.enabled else None
    return table.weight, None  # type: ignore[return-value]


class PackedTable(nn.Module):
    """A token matrix in fewer bits: rows for the embedding, products for the head."""

    def __init__(self, matrix: PackedLinear):
        super().__init__()
        self.matrix = matrix

    @property
    def weight(self) -> Float[Tensor, "V D"]:
        """The represented matrix."""
        return self.matrix.dequantize(self.matrix.float_dtype)

    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        return self.matrix.read_rows(tokens)


def embed_tokens(table: nn.Module, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
    """The rows of `tokens`."""
    if isinstance(table, PackedTable):
        return table(tokens)
    weight, rows = split_token_rows(table)
    if rows is None or not torch.is_grad_enabled():
        return table(tokens)
    order = rows.token_indices.argsort()
    indices = rows.token_indices[order]
    slots = torch.searchsorted(indices, tokens).clamp(max=len(indices) - 1)
    positions = (indices[slots] == tokens).nonzero(as_tuple=True)
    x = F.embedding(tokens, weight)
    return x.index_put(positions, rows.delta[order[slots[positions]]].to(x.dtype), accumulate=True)
