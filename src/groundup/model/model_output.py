"""What a model returns, and what its labels become."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from groundup.model.loss import IGNORE_INDEX


class ModelOutput(NamedTuple):
    """Where a loss was asked for, logits are left out: they would cost V numbers a token."""

    logits: Float[Tensor, "B T V"] | None
    loss: Float[Tensor, ""] | None


def shift_labels(labels: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """[a b c] -> [b c -100]: what each position predicts."""
    shifted = torch.full_like(labels, IGNORE_INDEX)
    shifted[:, :-1] = labels[:, 1:]
    return shifted


def shift_right(labels: Int[Tensor, "B T"], start_id: int) -> Int[Tensor, "B T"]:
    """[a b -100] -> [first a b]: what a decoder reads to predict `labels`; -100 is read as `first`."""
    shifted = torch.full_like(labels, start_id)
    shifted[:, 1:] = labels[:, :-1]
    return shifted.masked_fill_(shifted == IGNORE_INDEX, start_id)
