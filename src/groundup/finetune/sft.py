"""One run of supervised fine-tuning: what to train, for how long, and how it is looked at."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from groundup.artifacts.machine import Machine
from groundup.finetune.forms import Batches
from groundup.finetune.lora import add_lora
from groundup.finetune.rows import add_rows
from groundup.recipe.finetune import FinetuneSection
from groundup.recipe.train import TrainSection
from groundup.tokenizer import Tokenizer
from groundup.train import Objective, Result, build_engine, train
from groundup.train.objectives import Batch
from groundup.train.precision import autocast

WARMUP_SHARE = 0.05
LOOKS = 10
"""Times that the held-out conversations are scored."""


def make_lora(model: nn.Module, section: FinetuneSection, tokenizer: Tokenizer) -> None:
    """Freeze the model; give its matrices additions, and the control tokens' rows too."""
    add_lora(model, section.rank, section.alpha)
    add_rows(model, tokenizer.special_ids)


def make_full(model: nn.Module, section: FinetuneSection, tokenizer: Tokenizer) -> None:
    """Train every weight."""
    model.requires_grad_(True)


METHODS: dict[str, Callable[[nn.Module, FinetuneSection, Tokenizer], None]] = {
    "lora": make_lora,
    "full": make_full,
}


def settings_for(section: FinetuneSection, batches: Batches) -> TrainSection:
    """The loop's settings: `epochs` over the rows, a short warm-up, then a cosine to zero; no decay of the
    weights.
    """
    steps = max(1, math.ceil(section.epochs * batches.num_rows / batches.batch_rows))
    return TrainSection(
        steps=steps,
        batch_tokens=batches.batch_rows * batches.sequence_length,
        tokens=steps * batches.batch_rows * batches.sequence_length,
        sequence_length=batches.sequence_length,
        learning_rate=section.learning_rate,
        warmup_steps=math.ceil(WARMUP_SHARE * steps),
        weight_decay=0.0,
        schedule="cosine",
        final_learning_rate=0.0,
        precision=section.precision,
        evaluate_every=max(1, math.ceil(steps / LOOKS)),
    )


def finetune(
    model: nn.Module,
    objective: Objective,
    batches: Batches,
    held_out: Sequence[Batch],
    section: FinetuneSection,
    folder: Path,
    machine: Machine,
) -> tuple[Result, TrainSection]:
    """Train what of `model` is trainable, in place; continues an interrupted run in `folder`.

    The loss on held-out conversations is recorded on schedule, where there are any.
    """
    settings = settings_for(section, batches)

    def look(network: nn.Module) -> dict[str, float]:
        return {"loss": held_out_loss(network, objective, held_out, section.precision)}

    probe = look if held_out else None
    engine = build_engine(model, objective, settings, machine)
    result = train(engine, batches, settings, folder, machine, probe=probe, name="fine-tuning")
    engine.trained()
    return result, settings


@torch.no_grad()
def held_out_loss(model: nn.Module, objective: Objective, batches: Sequence[Batch], precision: str) -> float:
    """Mean loss over all that the assistant says in `batches`, in nats per token."""
    device = next(model.parameters()).device
    total, count = 0.0, 0
    for batch in batches:
        predicted = objective.count(batch)
        with autocast(device, precision):
            loss = objective.loss(model, {name: tensor.to(device) for name, tensor in batch.items()})
        total += loss.item() * predicted
        count += predicted
    return total / max(count, 1)
