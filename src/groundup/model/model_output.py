"""Model outputs, and labels shifted to the positions that predict them."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from groundup.model.loss import IGNORE_INDEX


class ModelOutput(NamedTuple):
    """Logits, or the loss if labels were given: logits would take V numbers per token."""

    logits: Float[Tensor, "B T V"] | None
    loss: Float[Tensor, ""] | None


def shift_labels(labels: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """[a b c] -> [b c -100]: the label of each position's prediction."""
    shifted = torch.full_like(labels, IGNORE_INDEX)
    shifted[:, :-1] = labels[:, 1:]
    return shifted


def shift_right(labels: Int[Tensor, "B T"], start_id: int) -> Int[Tensor, "B T"]:
    """[a b -100] -> [start a b]: decoder inputs that predict `labels`; -100 becomes `start_id`."""
    shifted = torch.full_like(labels, start_id)
    shifted[:, 1:] = labels[:, :-1]
    return shifted.masked_fill_(shifted == IGNORE_INDEX, start_id)
