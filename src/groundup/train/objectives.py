"""Training objectives: a loss and the number of targets it averages over; and batches for them.

Batches are dicts of arguments for `model(**batch)`: `tokens`, `labels`, and `document_ids` if sequences are padded. Masking
for encoders is in model/token_masking.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor, nn

from groundup.model.loss import IGNORE_INDEX

Batch = dict[str, Tensor]
"""Tensors of equal first dimension, by argument name of the loss."""


@dataclass(frozen=True)
class Objective:
    """A mean loss and the number of targets in the mean, by which micro-batches are weighted.

    Attributes:
        loss: (model, batch) -> mean loss.
        count: batch -> number of targets in the mean.
        prepare: (model, batch) -> the batch with what a loss needs to know of the whole batch; called once a step, before
            the batch is split into micro-batches. On a single device only.
    """

    loss: Callable[[nn.Module, Batch], Tensor]
    count: Callable[[Batch], int]
    prepare: Callable[[nn.Module, Batch], Batch] | None = None


def model_loss(model: nn.Module, batch: Batch, z_loss: float = 0.0) -> Tensor:
    """The model's own loss: mean cross-entropy of the labels, in nats."""
    return model(**batch, z_loss=z_loss).loss


def count_shifted(batch: Batch) -> int:
    """Targets of a decoder: all labels but the first of a sequence and those that are -100."""
    return int((batch["labels"][:, 1:] != IGNORE_INDEX).sum())


def count_labels(batch: Batch) -> int:
    """Targets of an encoder or encoder-decoder: all labels that are not -100."""
    return int((batch["labels"] != IGNORE_INDEX).sum())


def default_objective(model: nn.Module) -> Objective:
    """NEXT_TOKEN for a decoder, else UNSHIFTED."""
    architecture = getattr(getattr(model, "config", None), "architecture", "decoder")
    return NEXT_TOKEN if architecture == "decoder" else UNSHIFTED


def with_z_loss(objective: Objective, weight: float) -> Objective:
    """The objective with `weight` times the squared log-partition added (see model/loss.py). For model_loss only."""
    return replace(objective, loss=partial(model_loss, z_loss=weight)) if weight else objective


def uses_model_loss(objective: Objective) -> bool:
    """Whether the loss is model_loss, so that the last pipeline stage can compute it."""
    return getattr(objective.loss, "func", objective.loss) is model_loss


NEXT_TOKEN = Objective(model_loss, count_shifted)
"""Each token from those before it; the model shifts the labels."""

UNSHIFTED = Objective(model_loss, count_labels)
"""Labels at the positions that predict them: masked tokens, and the targets of an encoder-decoder."""


def next_token_batch(tokens: Int[Tensor, "B T"]) -> Batch:
    """A batch for next-token prediction."""
    return {"tokens": tokens, "labels": tokens}


def seq2seq_batch(
    sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], *, pad_id: int, eos_id: int
) -> Batch:
    """A batch that predicts each target from its source (translation, summarization); both end with `eos_id`, then padding."""
    tokens = _pad(sources, eos_id, pad_id)
    length = torch.tensor([len(source) + 1 for source in sources])
    documents = (torch.arange(tokens.shape[1]) < length[:, None]).long()
    return {"tokens": tokens, "labels": _pad(targets, eos_id, IGNORE_INDEX), "document_ids": documents}


def _pad(sequences: Sequence[Sequence[int]], eos_id: int, pad_id: int) -> Int[Tensor, "B T"]:
    length = max(map(len, sequences)) + 1
    return torch.tensor([[*ids, eos_id, *[pad_id] * (length - 1 - len(ids))] for ids in sequences])
