"""What a model learns: the loss that is minimised, and what it reads and predicts of a row of tokens.

The latter are pure functions from tokens to the arguments of `model(**batch)`: `tokens`, `labels`, and `document_ids`
where rows are padded. What an encoder learns from is in the model's `hiding`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor, nn

from groundup.model.loss import IGNORE_INDEX

Batch = dict[str, Tensor]
"""Tensors of equal first dimension, by the names of the loss's arguments: rows of them can be cut off."""


@dataclass(frozen=True)
class Objective:
    """A loss that is a mean, and over how many things: what the parts of a batch must be weighted by.

    Attributes:
        loss: (model, batch) -> mean loss over what the batch counts.
        count: how many positions (pairs, answers, ...) of a batch the mean is over.
    """

    loss: Callable[[nn.Module, Batch], Tensor]
    count: Callable[[Batch], int]


def model_loss(model: nn.Module, batch: Batch, z_loss: float = 0.0) -> Tensor:
    """The loss that the model itself makes of a batch: mean cross-entropy of its labels, in nats."""
    return model(**batch, z_loss=z_loss).loss


def count_shifted(batch: Batch) -> int:
    """Positions that a decoder predicts: not the first of a sequence, and not those marked -100."""
    return int((batch["labels"][:, 1:] != IGNORE_INDEX).sum())


def count_labels(batch: Batch) -> int:
    """Positions that an encoder, or the decoder of an encoder-decoder, predicts: those not marked -100."""
    return int((batch["labels"] != IGNORE_INDEX).sum())


def with_z_loss(objective: Objective, weight: float) -> Objective:
    """The objective of a model's own loss, with `weight` of the squared log-partition added (see model/loss.py)."""
    return replace(objective, loss=partial(model_loss, z_loss=weight)) if weight else objective


def uses_model_loss(objective: Objective) -> bool:
    """Whether the loss is what the model itself makes of a batch, so that it may be made where the model's end is."""
    return getattr(objective.loss, "func", objective.loss) is model_loss


NEXT_TOKEN = Objective(model_loss, count_shifted)
"""Each token from those before it: the model shifts the labels."""

UNSHIFTED = Objective(model_loss, count_labels)
"""Labels in the places where they are predicted: masked tokens, and the target of an encoder-decoder."""


def next_token_batch(tokens: Int[Tensor, "B T"]) -> Batch:
    """Predict each token from those before it (a decoder shifts the labels itself)."""
    return {"tokens": tokens, "labels": tokens}


def seq2seq_batch(
    sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], *, pad_id: int, eos_id: int
) -> Batch:
    """Predict each target from its source (translation, summaries). `eos_id` is put behind both, then padding."""
    tokens = _padded(sources, eos_id, pad_id)
    length = torch.tensor([len(source) + 1 for source in sources])
    documents = (torch.arange(tokens.shape[1]) < length[:, None]).long()
    return {"tokens": tokens, "labels": _padded(targets, eos_id, IGNORE_INDEX), "document_ids": documents}


def _padded(rows: Sequence[Sequence[int]], eos_id: int, pad_id: int) -> Int[Tensor, "B T"]:
    length = max(len(row) for row in rows) + 1
    return torch.tensor([[*row, eos_id, *[pad_id] * (length - 1 - len(row))] for row in rows])
