"""Trainable embeddings of control tokens, beside LoRA.

Pretraining does not contain the tokens that begin and end a turn, so their embeddings are untrained. LoRA freezes the token
embedding and the head; these few rows get a trainable update, as PEFT's trainable tokens.
"""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils import parametrize


class TrainableTokens(nn.Module):
    """weight -> weight with `delta` added to the rows `token_indices`.

    Attributes:
        delta: (len(token_indices), D), zeros at first.
        enabled: False: the weight as it is.
    """

    token_indices: Tensor

    def __init__(self, token_indices: Int[Tensor, " R"], width: int):
        super().__init__()
        self.register_buffer("token_indices", token_indices)
        self.enabled = True
        self.delta = nn.Parameter(torch.zeros(len(token_indices), width, device=token_indices.device))

    def forward(self, weight: Float[Tensor, "V D"]) -> Float[Tensor, "V D"]:
        if not self.enabled:
            return weight
        return weight.index_add(0, self.token_indices, self.delta.to(weight.dtype))


def add_trainable_tokens(model: nn.Module, token_ids: Iterable[int]) -> dict[str, TrainableTokens]:
    """Make the rows `token_ids` of the token embedding, and of an untied head, trainable. In place."""
    ids = sorted(token_ids)
    return {name: train_rows(table, ids) for name, table in token_matrices(model).items()}


def train_rows(table: nn.Module, token_ids: Sequence[int]) -> TrainableTokens:
    """Make the rows `token_ids` of one matrix trainable, in place."""
    weight: Tensor = table.weight  # type: ignore[assignment]
    rows = TrainableTokens(torch.tensor(token_ids, device=weight.device), weight.shape[1])
    parametrize.register_parametrization(table, "weight", rows)
    return rows


def merge_trainable_tokens(model: nn.Module) -> nn.Module:
    """Add the updates to the weights, in place."""
    for table in token_matrices(model).values():
        if parametrize.is_parametrized(table, "weight"):
            parametrize.remove_parametrizations(table, "weight", leave_parametrized=True)
    return model


def token_matrices(model: nn.Module) -> dict[str, nn.Module]:
    """The modules with one row a token: the embedding, and an untied head."""
    matrices: dict[str, nn.Module] = {"embedding.tokens": model.get_submodule("embedding.tokens")}
    head = model.get_submodule("head")
    if "weight" in head._parameters or parametrize.is_parametrized(head, "weight"):
        matrices["head"] = head
    return matrices
