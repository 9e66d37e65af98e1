"""Supervised fine-tuning of a model on conversations, with LoRA or all weights."""

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from groundup.artifacts.machine import Machine
from groundup.finetune.distillation import distillation_objective
from groundup.finetune.finetune_task import FinetuneBatches, task_for_model
from groundup.finetune.long_conversations import LongConversations
from groundup.finetune.training_data.conversation_store import TrainingConversation
from groundup.finetune.training_data.read_stats import ReadStats
from groundup.finetune.training_set import TrainingSet, encode_training_set
from groundup.finetune.tuning_options import TuningOptions
from groundup.interop.adapters.lora_layer import merge_lora
from groundup.interop.adapters.trainable_tokens import merge_trainable_tokens
from groundup.plan.checks.stage_support import check_row_length
from groundup.plan.defaults.finetune_defaults import finetuning_defaults, row_length
from groundup.plan.shape.parameter_count import count_parameters
from groundup.recipe.train_config import TrainConfig
from groundup.tokenizer import Tokenizer
from groundup.train import Batch, EvalFn, Objective, TrainResult, build_engine, run_training_loop
from groundup.train.device import setup_device
from groundup.train.mixed_precision import autocast

WARMUP_FRACTION = 0.05
NUM_EVALS = 10
"""Evaluations on the validation conversations."""
PATIENCE = 3
"""Evaluations without a better one, after which training stops; with `keep_best_weights` only."""

Messages = Sequence[Mapping[str, Any]]
"""[{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}, ...]"""


@dataclass(frozen=True)
class FinetuneResult:
    """Result of `finetune`.

    Attributes:
        training: records, evaluations and speed.
        knobs: lora_rank, epochs, batch_tokens, learning_rate and optimizer, as given or derived.
        train, validation: the conversations that were used, as they were, with their tokens.
        stats: conversations that were dropped, cut or split, and why.
        validation_start: validation loss before training, in nats per token; None without validation.
        trained_parameters: number of trained parameters.
        model: the model that was given; with several ranks a new one on the main rank, and undefined on the others.
    """

    training: TrainResult
    config: TrainConfig
    knobs: dict[str, Any]
    train: TrainingSet
    validation: TrainingSet
    stats: ReadStats
    validation_start: float | None
    trained_parameters: int
    model: nn.Module


def finetune(
    model: Any,
    tokenizer: Tokenizer,
    conversations: Sequence[TrainingConversation | Messages],
    validation: Sequence[TrainingConversation | Messages] = (),
    *,
    augment_user_turns: bool = False,
    long_conversations: LongConversations = "cut",
    keep_best_weights: bool = False,
    teacher: nn.Module | None = None,
    teacher_weight: float = 0.5,
    teacher_temperature: float = 1.0,
    merge: bool = True,
    folder: Path | str | None = None,
    machine: Machine | None = None,
    seed: int = 0,
    **options: Any,
) -> FinetuneResult:
    """Fine-tune `model` in place on a list of conversations; afterwards it is on the CPU and in evaluation mode.

    In a process group every rank calls it with the same arguments and computes its part of each batch.

        chat = [[{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]]
        result = finetune(load_model("runs/small/04-base"), tokenizer, chat, epochs=10)

    Args:
        model: a decoder, or an encoder-decoder, which learns to answer the first user turn.
        conversations: lists of messages; only the assistant's tokens have a loss.
        validation: conversations to evaluate on, ten times during training.
        augment_user_turns: also train on user turns in lower case and without final punctuation.
        long_conversations: what happens to those beyond `sequence_length`: "cut" after the last answer that fits, "split"
            into pieces, or "drop".
        keep_best_weights: end with the weights of the best evaluation, and stop when several in a row are no better; small
            models need the last weights to know their training answers by heart.
        teacher: a decoder with the same vocabulary, whose predictions are learnt too; teacher_weight and
            teacher_temperature: see `distillation_objective`. The validation loss is that of the labels alone.
        merge: with LoRA, merge the adapter into the weights at the end.
        folder: for metrics and checkpoints, from which a second call resumes; None: nothing is kept.
        options: fields of TuningOptions: method, lora_rank, epochs, learning_rate ...; sequence_length: of rows, default: what
            the longest conversation needs.
    """
    tuning = TuningOptions(**options)
    machine = machine or Machine()
    task = task_for_model(model)
    context_length = model.config.context_length
    check_row_length(tuning.sequence_length, context_length)
    max_tokens = tuning.sequence_length or context_length
    stats = ReadStats()
    train_set, validation_set = (
        encode_training_set(
            part, partial(task.encode, tokenizer=tokenizer, augment_user_turns=is_augmented), tokenizer.vocab_size,
            max_tokens, long_conversations, stats, length=task.length,
        )
        for part, is_augmented in ((conversations, augment_user_turns), (validation, False))
    )  # fmt: skip
    if stats.dropped or stats.changed:
        machine.progress.log(f"conversations as tokens: {stats.describe_losses()}")
    longest = max(train_set.longest, validation_set.longest)
    defaults = finetuning_defaults(
        "generation", tuning.method, count_parameters(model.config).total, train_set.tokens, model.config.architecture
    )
    knobs = tuning.with_defaults(defaults)
    length = tuning.sequence_length or row_length(longest, context_length, knobs["batch_tokens"])
    num_rows = max(1, knobs["batch_tokens"] // length)
    batches = task.batches(train_set.encoded, length, num_rows, seed, tokenizer)
    validation_batches: list[Batch] = []
    if len(validation_set):
        validation_batches = task.batches(validation_set.encoded, length, num_rows, seed, tokenizer).first_epoch()

    torch.manual_seed(seed)
    model.to(setup_device(machine))
    tuning.prepare(model, tokenizer.special_ids, knobs["lora_rank"])
    objective = task.objective
    if teacher is not None:
        objective = distillation_objective(
            teacher.to(setup_device(machine)), weight=teacher_weight, temperature=teacher_temperature
        )
    trained_parameters = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    training, config, validation_start, model = train_on_batches(
        model, objective, batches, validation_batches, epochs=knobs["epochs"],
        learning_rate=knobs["learning_rate"], optimizer=knobs["optimizer"],
        precision=tuning.precision, keep_best_weights=keep_best_weights, folder=folder,
        machine=machine, validation_objective=task.objective,
    )  # fmt: skip
    if merge and tuning.method != "full":
        merge_trainable_tokens(merge_lora(model))
    return FinetuneResult(
        training, config, knobs, train_set, validation_set, stats, validation_start,
        trained_parameters, model,
    )  # fmt: skip


def train_on_batches(
    model: nn.Module,
    objective: Objective,
    batches: FinetuneBatches,
    validation_batches: Sequence[Batch],
    *,
    epochs: float,
    learning_rate: float,
    optimizer: str,
    precision: str,
    keep_best_weights: bool,
    folder: Path | str | None,
    machine: Machine,
    validation_objective: Objective | None = None,
    eval_fn: EvalFn | None = None,
    num_evals: int = NUM_EVALS,
) -> tuple[TrainResult, TrainConfig, float | None, nn.Module]:
    """Train the trainable weights of `model`: the result, the configuration, the validation loss before, and the model.

    In a process group each rank computes its part of every batch, and the model, a new one, is on the main rank.

    validation_objective: of the validation loss; default: `objective`.
    eval_fn: scores of the validation batches, by the first of which weights are kept; default: the loss, also before.
    """

    def evaluate(model: nn.Module) -> dict[str, Any]:
        return {"loss": validation_loss(model, validation_objective or objective, validation_batches, precision)}

    validation_start = evaluate(model.eval())["loss"] if validation_batches and eval_fn is None else None
    config = train_config_for(batches, epochs, learning_rate, optimizer, precision, num_evals)
    if validation_batches and keep_best_weights:
        config = config.model_copy(update={"keep_best_weights": True, "early_stopping_patience": PATIENCE})
    engine = build_engine(model, objective, config, machine, whole_batches=True)
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(engine.broadcast(folder or temporary))
        training = run_training_loop(
            engine, batches, config, out, machine, name="fine-tuning",
            eval_fn=(eval_fn or evaluate) if validation_batches else None,
        )  # fmt: skip
    return training, config, validation_start, engine.finalize()


def train_config_for(
    batches: FinetuneBatches,
    epochs: float,
    learning_rate: float,
    optimizer: Any,
    precision: Any,
    num_evals: int = NUM_EVALS,
) -> TrainConfig:
    """`epochs` over the batches: short warm-up, then cosine decay to zero; no weight decay."""
    steps = max(1, math.ceil(epochs * batches.num_rows / batches.batch_rows))
    return TrainConfig(
        steps=steps,
        batch_tokens=batches.batch_rows * batches.sequence_length,
        tokens=steps * batches.batch_rows * batches.sequence_length,
        sequence_length=batches.sequence_length,
        learning_rate=learning_rate,
        optimizer=optimizer,
        warmup_steps=math.ceil(WARMUP_FRACTION * steps),
        weight_decay=0.0,
        lr_schedule="cosine",
        min_lr_ratio=0.0,
        precision=precision,
        evaluate_every=max(1, math.ceil(steps / num_evals)),
    )


@torch.no_grad()
def validation_loss(model: nn.Module, objective: Objective, batches: Sequence[Batch], precision: str) -> float:
    """Mean loss over the targets of `batches`, such as the assistant's tokens, in nats."""
    device = next(model.parameters()).device
    total, count = 0.0, 0
    for batch in batches:
        num_targets = objective.count(batch)
        with autocast(device, precision):
            loss = objective.loss(model, {name: tensor.to(device) for name, tensor in batch.items()})
        total += loss.item() * num_targets
        count += num_targets
    return total / max(count, 1)
