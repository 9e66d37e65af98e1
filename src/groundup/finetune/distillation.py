"""Distillation: a model learns the predictions of a larger one, not the texts alone (Hinton et al. 2015).

    loss = (1 - w) cross-entropy(labels) + w T^2 KL(teacher || student)      both distributions at temperature T

T^2 keeps the size of the gradient at every temperature (section 2). Both models have one vocabulary. Only positions with a
label pass the two heads, in chunks whose logits are computed again in the backward pass.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

from groundup.artifacts.errors import UserError
from groundup.finetune.response_log_probs import CHUNK_LOGITS
from groundup.interop.model_loading import open_model
from groundup.model import Decoder
from groundup.model.loss import IGNORE_INDEX
from groundup.model.matmul_precision import matmul_dtype
from groundup.model.moe import pop_aux_loss
from groundup.tokenizer import Tokenizer
from groundup.train.objectives import Batch, Objective, count_shifted


def distillation_objective(teacher: nn.Module, *, weight: float = 0.5, temperature: float = 1.0) -> Objective:
    """The loss above for a decoder, whose batches are those of next-token prediction.

        train(student, batches, steps=100, objective=distillation_objective(teacher, weight=0.9, temperature=2.0))

    Args:
        teacher: a decoder on the device of the student; it is frozen here.
        weight: w, from 0 (the labels alone) to 1 (the teacher alone).
        temperature: T; above 1, unlikely tokens count more.
    """
    teacher.requires_grad_(False).eval()
    loss = partial(_distillation_loss, teacher=teacher, weight=weight, temperature=temperature)
    return Objective(loss, count_shifted)


def open_teacher(path: Path | str, tokenizer: Tokenizer, device: torch.device) -> nn.Module:
    """The teacher at `path`. Raises UserError for another architecture or vocabulary than that of the student's tokenizer."""
    teacher, other = open_model(path, str(device))
    if not isinstance(teacher, Decoder):
        raise UserError(f"{path}: not a decoder, expected one as finetune.teacher")
    check_teacher(path, other, tokenizer)
    return teacher


def check_teacher(path: Path | str, teacher: Tokenizer, tokenizer: Tokenizer) -> None:
    """Raises UserError if the teacher's tokenizer has another vocabulary."""
    if teacher.vocabulary != tokenizer.vocabulary:
        raise UserError(
            f"finetune.teacher {path}: its vocabulary of {teacher.vocab_size:,} tokens is not that of the model "
            f"({tokenizer.vocab_size:,})",
            hint="a teacher of the same family; or let it answer the prompts, and fine-tune on its answers",
        )


def _distillation_loss(model: Any, batch: Batch, *, teacher: Any, weight: float, temperature: float) -> Tensor:
    labels, documents = batch["labels"][:, 1:], batch.get("document_ids")
    positions = labels != IGNORE_INDEX
    with torch.no_grad():
        taught: Tensor = teacher.hidden_states(batch["tokens"], document_ids=documents)[:, :-1][positions]
    with parametrize.cached():  # of trained token rows
        hidden: Tensor = model.hidden_states(batch["tokens"], document_ids=documents)[:, :-1][positions]
        matrix = model.head.weight.to(matmul_dtype(hidden))
    targets, size = labels[positions], max(1, CHUNK_LOGITS // matrix.shape[0])
    total = hidden.new_zeros((), dtype=torch.float32)
    for begin in range(0, len(targets), size):
        part = slice(begin, begin + size)
        total = total + checkpoint(
            _chunk_loss, hidden[part], matrix, taught[part], targets[part], model.head, teacher.head, weight, temperature,
            use_reentrant=False, preserve_rng_state=False,
        )  # fmt: skip
    return total / max(1, len(targets)) + pop_aux_loss(model)


def _chunk_loss(
    states: Float[Tensor, "N D"],
    matrix: Float[Tensor, "V D"],
    taught: Float[Tensor, "N E"],
    targets: Int[Tensor, " N"],
    head: Any,
    teacher_head: Any,
    weight: float,
    temperature: float,
) -> Float[Tensor, ""]:
    """Sum over N positions."""
    logits = head.softcap(F.linear(head.scale(states), matrix, head.bias)).float()
    with torch.no_grad():
        teacher_matrix = teacher_head.weight.to(matmul_dtype(taught))
        wanted = teacher_head.softcap(F.linear(teacher_head.scale(taught), teacher_matrix, teacher_head.bias)).float()
        log_wanted = (wanted / temperature).log_softmax(dim=-1)
    divergence = F.kl_div((logits / temperature).log_softmax(dim=-1), log_wanted, reduction="sum", log_target=True)
    return (1 - weight) * F.cross_entropy(logits, targets, reduction="sum") + weight * temperature**2 * divergence
