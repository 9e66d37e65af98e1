"""The loop. There is one, for every kind of training: it takes batches, a loss and probes, and knows nothing else."""

import json
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.recipe.train import TrainSection
from groundup.train import checkpoint
from groundup.train.optimizer import build_optimizers, set_learning_rate
from groundup.train.schedule import learning_rate_share

Batch = dict[str, Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]
Probe = Callable[[nn.Module], dict[str, float]]

IGNORE = -100
"""The label of a position that is not predicted."""

MICRO_BATCH_TOKENS = {"cpu": 2_048, "cuda": 32_768, "mps": 8_192}
"""Tokens in one forward pass where the machine does not say. A CPU is quickest while activations stay in its cache
(lab book); an accelerator wants to be filled."""


class Batches(Protocol):
    """Where batches come from: a pure function of the step, so that a resumed run sees what the straight one saw."""

    def batch(self, step: int) -> Batch: ...


@dataclass(frozen=True)
class Result:
    """What a training run leaves, beside the trained weights: one record a step, and how fast it went."""

    records: list[dict[str, float]]
    probes: list[dict[str, float]]
    speed: dict[str, float]


def train(
    model: nn.Module,
    batches: Batches,
    loss: Loss,
    settings: TrainSection,
    folder: Path,
    machine: Machine,
    *,
    probe: Probe | None = None,
    name: str = "training",
) -> Result:
    """Train `model` in place for `settings.steps` steps; continues from the newest checkpoint in `folder`.

    Args:
        batches: `batches.batch(step)` gives tensors of equal first dimension: sequences. `labels` marks with -100
            what is not predicted.
        loss: (model, batch) -> mean loss over the predicted positions of the batch.
        settings: `steps`, `learning_rate`, `warmup_steps` and `evaluate_every` must be derived.
        folder: `steps.jsonl` and `checkpoints/` are written here.
        probe: called on schedule and at the end, after the checkpoint; what it returns is recorded with the step.

    The same settings, batches and machine give the same bits, however often the run was interrupted.
    Raises UserError on a loss that is not finite, naming the step; the last checkpoint stays.
    """
    steps, peak, warmup, every = (
        settings.steps,
        settings.learning_rate,
        settings.warmup_steps,
        settings.evaluate_every,
    )
    if steps is None or peak is None or warmup is None or every is None:
        raise ValueError(
            "settings are not derived: steps, learning_rate, warmup_steps and evaluate_every are needed"
        )
    device = next(model.parameters()).device
    optimizers = build_optimizers(model, settings, peak)
    parameters = [p for p in model.parameters() if p.requires_grad]
    checkpoints = folder / "checkpoints"
    first, saved = checkpoint.load_latest(checkpoints, model, optimizers)
    records: list[dict[str, float]] = saved.get("records", [])
    probes: list[dict[str, float]] = saved.get("probes", [])
    saved_at = began = time.monotonic()
    trained = 0

    def look(done: int) -> None:
        """Probe after `done` steps when it is due; after the save, so that a fault in a probe costs no step."""
        due = done > 0 and (done % every == 0 or done == steps)
        if probe is not None and due and not (probes and probes[-1]["step"] == done):
            model.eval()
            probes.append({"step": done, **probe(model)})
            model.train()

    look(first)  # due, when the run was killed between a save and its probe
    model.train()
    with machine.progress.task(name, total=steps, unit="steps") as task:
        task.start_at(first)
        for step in range(first, steps):
            batch = batches.batch(step)
            share = learning_rate_share(step, steps, warmup, settings)
            set_learning_rate(optimizers, share)
            value = accumulate(model, batch, loss, settings, machine, device)
            norm = nn.utils.clip_grad_norm_(parameters, settings.clip_norm or math.inf)
            if not (math.isfinite(value) and math.isfinite(norm.item())):
                raise UserError(
                    f"step {step}: loss {value}, gradient norm {norm.item()}: not finite",
                    hint=f"lower train.learning_rate ({peak:g}); the run continues from {checkpoints}",
                )
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            records.append(
                {"step": step, "loss": value, "learning_rate": peak * share, "gradient_norm": norm.item()}
            )
            trained += batch["labels"].numel()
            task.advance()
            task.note(f"loss {value:.3f}, {trained / (time.monotonic() - began):,.0f} tokens/s")
            done = step + 1
            if done == steps or time.monotonic() - saved_at >= machine.checkpoint_seconds:
                checkpoint.save(checkpoints, done, model, optimizers, {"records": records, "probes": probes})
                saved_at = time.monotonic()
            look(done)
    model.eval()
    _write_lines(folder / "steps.jsonl", records)
    seconds = time.monotonic() - began
    return Result(
        records, probes, {"tokens_per_second": trained / seconds, "seconds": seconds} if trained else {}
    )


def accumulate(
    model: nn.Module, batch: Batch, loss: Loss, settings: TrainSection, machine: Machine, device: torch.device
) -> float:
    """Add the gradient of the batch's mean loss, one micro-batch at a time; returns that loss.

    Each micro-batch counts by the positions it predicts, so that the split changes nothing but rounding.
    """
    sequences, length = batch["labels"].shape
    size = machine.micro_batch or max(1, MICRO_BATCH_TOKENS[device.type] // length)
    predicted = count_predicted(batch["labels"])
    total = torch.zeros((), device=device)
    for begin in range(0, sequences, size):
        micro = {
            key: value[begin : begin + size].to(device, non_blocking=True) for key, value in batch.items()
        }
        share = count_predicted(micro["labels"]) / max(predicted, 1)
        with autocast(device, settings.precision):
            part = loss(model, micro) * share
        part.backward()
        total += part.detach()
    return total.item()


def count_predicted(labels: Tensor) -> int:
    """Positions of `labels` (B T) that a model predicts: not the first of a sequence, and not those marked -100."""
    return int((labels[:, 1:] != IGNORE).sum())


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Matrix products in bfloat16 over float32 weights, or nothing."""
    if precision == "bfloat16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def next_token_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy of each token given those before it, in nats."""
    return model(**batch).loss


def _write_lines(path: Path, records: list[dict[str, float]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
