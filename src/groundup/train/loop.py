"""The loop. There is one, for every kind of training: it takes an engine and batches, and knows nothing else."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.recipe.train import TrainSection
from groundup.train.checkpoints import Checkpoints
from groundup.train.engines import Engine
from groundup.train.journal import Journal, Record
from groundup.train.objectives import Batch
from groundup.train.schedule import learning_rate_share

Probe = Callable[[nn.Module], dict[str, float]]


class Batches(Protocol):
    """Where batches come from: a pure function of the step, so that a resumed run sees what the straight one saw."""

    def batch(self, step: int) -> Batch: ...


@dataclass(frozen=True)
class Result:
    """What a training run leaves, beside the trained weights: one record a step, and how fast it went."""

    records: list[Record]
    probes: list[Record]
    speed: dict[str, float]


def train(
    engine: Engine,
    batches: Batches,
    settings: TrainSection,
    folder: Path,
    machine: Machine,
    *,
    probe: Probe | None = None,
    name: str = "training",
) -> Result:
    """Take `settings.steps` steps with `engine`; continues from the newest checkpoint in `folder`.

    Args:
        batches: `batches.batch(step)` gives tensors of equal first dimension: the sequences of this engine's part.
        settings: `steps`, `learning_rate`, `warmup_steps` and `evaluate_every` must be derived.
        folder: `steps.jsonl`, `probes.jsonl` and `checkpoints/` are written here.
        probe: called on schedule and at the end, after the checkpoint; what it returns is recorded with the step.

    The same settings, batches and machine give the same bits, however often the run was interrupted.
    Raises UserError on a loss that is not finite, naming the step; the last checkpoint stays.
    """
    steps, peak, every = settings.steps, settings.learning_rate, settings.evaluate_every
    if steps is None or peak is None or settings.warmup_steps is None or every is None:
        raise ValueError(
            "settings are not derived: steps, learning_rate, warmup_steps and evaluate_every are needed"
        )
    folder.mkdir(parents=True, exist_ok=True)
    records = Journal(folder / "steps.jsonl" if engine.main else None)
    probes = Journal(folder / "probes.jsonl" if engine.main else None)

    def look(done: int) -> None:
        """Probe after `done` steps when it is due; after the save, so that a fault in a probe costs no step."""
        due = done > 0 and (done % every == 0 or done == steps)
        if probe is not None and due and not (probes.records and probes.records[-1]["step"] == done):
            with engine.evaluating() as model:
                probes.append({"step": done, **probe(model)})

    with Checkpoints(folder / "checkpoints", engine, before=records.sync) as checkpoints:
        first = checkpoints.restore().get("step", 0)
        records.start_at(first)
        probes.start_at(first + 1)
        look(first)  # due, when the run was killed between a save and its probe
        saved_at = began = time.monotonic()
        trained = 0
        with machine.progress.task(name, total=steps, unit="steps") as task:
            task.start_at(first)
            for step in range(first, steps):
                batch = batches.batch(step)
                share = learning_rate_share(step, steps, settings.warmup_steps, settings)
                loss = engine.accumulate(batch)
                norm = engine.update(share)
                if not (math.isfinite(loss) and math.isfinite(norm)):
                    raise UserError(
                        f"step {step}: loss {loss}, gradient norm {norm}: not finite",
                        hint=f"lower train.learning_rate ({peak:g}); the run continues from {checkpoints.folder}",
                    )
                records.append(
                    {"step": step, "loss": loss, "learning_rate": peak * share, "gradient_norm": norm}
                )
                trained += batch["labels"].numel() * engine.data_ranks
                task.advance()
                task.note(f"loss {loss:.3f}, {trained / (time.monotonic() - began):,.0f} tokens/s")
                done = step + 1
                late = time.monotonic() - saved_at >= machine.checkpoint_seconds
                if engine.agree(late) or done % every == 0 or done == steps:
                    checkpoints.save({"step": done})
                    saved_at = time.monotonic()
                look(done)
        seconds = time.monotonic() - began
    speed = {"tokens_per_second": trained / seconds, "seconds": seconds} if trained else {}
    return Result(records.records, probes.records, speed)
