"""The rows of the embedding and of the head that belong to control tokens.

Pretraining never shows the tokens that begin and end a turn: their rows are noise, and only pushed away, all
alike. LoRA freezes both tables, so the few rows get an addition of their own, which is trained and then
added.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils import parametrize


class TrainableTokens(nn.Module):
    """weight -> weight with `delta` added to some of its rows.

    Attributes:
        delta: (len(rows), D), zeros at first.
    """

    token_indices: Tensor

    def __init__(self, token_indices: Int[Tensor, " R"], width: int):
        super().__init__()
        self.register_buffer("token_indices", token_indices)
        self.delta = nn.Parameter(torch.zeros(len(token_indices), width, device=token_indices.device))

    def forward(self, weight: Float[Tensor, "V D"]) -> Float[Tensor, "V D"]:
        return weight.index_add(0, self.token_indices, self.delta.to(weight.dtype))


def add_trainable_tokens(model: nn.Module, token_ids: Iterable[int]) -> dict[str, TrainableTokens]:
    """Make the rows `ids` of the token embedding, and of the head where it has its own matrix, trainable. In
    place.
    """
    rows = torch.tensor(sorted(token_ids), device=next(model.parameters()).device)
    added = {}
    for name, table in token_matrices(model).items():
        added[name] = TrainableTokens(rows, table.weight.shape[1])  # pyright: ignore[reportIndexIssue, reportArgumentType]
        parametrize.register_parametrization(table, "weight", added[name])
    return added


def merge_trainable_tokens(model: nn.Module) -> nn.Module:
    """Add the additions to their rows and leave plain tables. In place."""
    for table in token_matrices(model).values():
        if parametrize.is_parametrized(table, "weight"):
            parametrize.remove_parametrizations(table, "weight", leave_parametrized=True)
    return model


def token_matrices(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that hold one row a token: the embedding, and a head that is not tied to it."""
    found: dict[str, nn.Module] = {"embedding.tokens": model.get_submodule("embedding.tokens")}
    head = model.get_submodule("head")
    if "weight" in head._parameters or parametrize.is_parametrized(head, "weight"):
        found["head"] = head
    return found
