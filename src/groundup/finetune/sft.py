"""One run of supervised fine-tuning: what to train, for how long, and how it is looked at."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from groundup.artifacts.machine import Machine
from groundup.finetune.finetune_task import FinetuneBatches
from groundup.finetune.lora import apply_lora
from groundup.finetune.trainable_tokens import add_trainable_tokens
from groundup.recipe.finetune_config import FinetuneConfig
from groundup.recipe.train_config import TrainConfig
from groundup.tokenizer import Tokenizer
from groundup.train import Objective, TrainResult, build_engine, run_training_loop
from groundup.train.mixed_precision import autocast
from groundup.train.objectives import Batch

WARMUP_FRACTION = 0.05
NUM_EVALS = 10
"""Times that the held-out conversations are scored."""


def prepare_lora(model: nn.Module, section: FinetuneConfig, tokenizer: Tokenizer) -> None:
    """Freeze the model; give its matrices additions, and the control tokens' rows too."""
    apply_lora(model, section.lora_rank, section.lora_alpha)
    add_trainable_tokens(model, tokenizer.special_ids)


def prepare_full(model: nn.Module, section: FinetuneConfig, tokenizer: Tokenizer) -> None:
    """Train every weight."""
    model.requires_grad_(True)


METHODS: dict[str, Callable[[nn.Module, FinetuneConfig, Tokenizer], None]] = {
    "lora": prepare_lora,
    "full": prepare_full,
}


def train_config_for(section: FinetuneConfig, batches: FinetuneBatches) -> TrainConfig:
    """The loop's settings: `epochs` over the rows, a short warm-up, then a cosine to zero; no decay of the
    weights.
    """
    steps = max(1, math.ceil(section.epochs * batches.num_rows / batches.batch_rows))
    return TrainConfig(
        steps=steps,
        batch_tokens=batches.batch_rows * batches.sequence_length,
        tokens=steps * batches.batch_rows * batches.sequence_length,
        sequence_length=batches.sequence_length,
        learning_rate=section.learning_rate,
        warmup_steps=math.ceil(WARMUP_FRACTION * steps),
        weight_decay=0.0,
        lr_schedule="cosine",
        min_lr_ratio=0.0,
        precision=section.precision,
        evaluate_every=max(1, math.ceil(steps / NUM_EVALS)),
    )


def finetune(
    model: nn.Module,
    objective: Objective,
    batches: FinetuneBatches,
    held_out: Sequence[Batch],
    section: FinetuneConfig,
    folder: Path,
    machine: Machine,
) -> tuple[TrainResult, TrainConfig]:
    """Train what of `model` is trainable, in place; continues an interrupted run in `folder`.

    The loss on held-out conversations is recorded on schedule, where there are any.
    """
    settings = train_config_for(section, batches)

    def look(network: nn.Module) -> dict[str, float]:
        return {"loss": validation_loss(network, objective, held_out, section.precision)}

    probe = look if held_out else None
    engine = build_engine(model, objective, settings, machine)
    result = run_training_loop(engine, batches, settings, folder, machine, eval_fn=probe, name="fine-tuning")
    engine.finalize()
    return result, settings


@torch.no_grad()
def validation_loss(
    model: nn.Module, objective: Objective, batches: Sequence[Batch], precision: str
) -> float:
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
