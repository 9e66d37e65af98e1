"""The loop. There is one, for every kind of training: it takes an engine and batches, and knows nothing else."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.recipe.train import TrainSection
from groundup.train.checkpoints import Checkpoints
from groundup.train.device import same_bits
from groundup.train.engines import Engine
from groundup.train.guard import spike
from groundup.train.journal import Record
from groundup.train.objectives import Batch
from groundup.train.prefetch import Batches
from groundup.train.schedule import learning_rate_share
from groundup.train.stop import Stopped, listening
from groundup.train.telling import Telling

Probe = Callable[[nn.Module], dict[str, Any]]

PATIENCE_WITH_BATCHES = 20
"""Steps in a row, or rollbacks, after which it is not the batches' fault."""


@dataclass(frozen=True)
class Position:
    """How far a run is: what the loop needs to continue, beside the engine's state.

    Attributes:
        step: finished steps.
        left_out: batches that a rollback left out, so that step s trains on batch s + left_out.
        rollbacks: how many there were.
    """

    step: int = 0
    left_out: int = 0
    rollbacks: int = 0


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
    facts: Callable[[int], Record] = lambda step: {},
    flops_per_token: float | None = None,
    seed: int = 0,
    name: str = "training",
) -> Result:
    """Take `settings.steps` steps with `engine`; continues from the newest checkpoint in `folder`.

    Args:
        batches: `batches.batch(step)` gives tensors of equal first dimension: the sequences of this engine's part.
        settings: `steps`, `learning_rate`, `warmup_steps` and `evaluate_every` must be derived.
        folder: `steps.jsonl`, `probes.jsonl`, `checkpoints/` and what the trackers make are written here.
        probe: called on schedule and at the end, after the checkpoint; what it returns is recorded with the step. Its
            first value is what `settings.patience` waits for to fall.
        facts: what else the record of a step says about its batch.
        flops_per_token: the model's arithmetic, for the record's share of the device's peak.
        seed: every step's random numbers follow from it and from the step.

    The same settings, batches and machine give the same bits, however often the run was interrupted.
    Raises Stopped after a signal, when everything is saved, and UserError on a loss that is not finite, naming the
    batch: the weights before it are kept, and the last checkpoint stays.
    """
    steps, every = settings.steps, settings.evaluate_every
    if steps is None or settings.learning_rate is None or settings.warmup_steps is None or every is None:
        raise ValueError(
            "settings are not derived: steps, learning_rate, warmup_steps and evaluate_every are needed"
        )
    folder.mkdir(parents=True, exist_ok=True)
    telling = Telling(engine, folder, machine, flops_per_token)

    def look(done: int) -> bool:
        """Probe after `done` steps when it is due; true when the probes say that training may end."""
        if probe is None or done == 0 or (done % every and done != steps):
            return False
        if not telling.probed(done):
            with engine.evaluating() as model:
                telling.probe(done, probe(model))
        return settings.patience is not None and _stale(telling.probes.records, settings.patience)

    with (
        Checkpoints(folder / "checkpoints", engine, machine, telling.sync) as checkpoints,
        listening() as wish,
        telling.task(name, steps),
    ):
        at = Position(**checkpoints.restore())
        telling.start_at(at.step)
        ended = look(at.step)  # due, when the run was killed between a save and its probe
        saved = time.monotonic()
        while at.step < steps and not ended:
            step, number = at.step, at.step + at.left_out
            batch = batches.batch(number)
            share = learning_rate_share(step, steps, settings.warmup_steps, settings)
            torch.manual_seed(_seed_of(seed, step, engine.data_rank))
            with telling.watched(step), same_bits(engine.device, machine.deterministic):
                loss = engine.accumulate(batch)
            wrong = _objection(loss, telling.losses(), settings)
            norm = engine.discard() if wrong else engine.update(share)
            if norm is not None and not math.isfinite(norm):
                wrong = f"gradient norm {norm}"
            if wrong and (settings.on_spike == "ignore" or telling.refused() >= PATIENCE_WITH_BATCHES):
                _give_up(checkpoints, at, batch, f"step {step}, batch {number}: {wrong}", settings)
            if wrong and settings.on_spike == "rollback" and (back := _go_back(checkpoints, at, wrong)):
                telling.say(f"step {step}: {wrong}; back to step {back.step}, without the batches since")
                telling.start_at(back.step)
                at = back
                continue
            if wrong:
                telling.say(f"step {step}: {wrong}; batch {number} is left out")
            record = {"step": step, "loss": loss, "learning_rate": settings.learning_rate * share}
            record |= {"gradient_norm": norm} | ({"left_out": wrong} if wrong else {}) | facts(number)
            telling.step(record, batch)
            at = replace(at, step=step + 1)
            due = at.step == steps or (probe is not None and at.step % every == 0)
            late = wish.stop or time.monotonic() - saved >= machine.checkpoint_seconds
            if due or engine.agree(late):
                checkpoints.save(asdict(at))
                saved = time.monotonic()
                if engine.agree(wish.stop):
                    raise Stopped
                ended = look(at.step)
    return Result(telling.steps.records, telling.probes.records, telling.meter.summary())


def _objection(loss: float, earlier: list[float], settings: TrainSection) -> str | None:
    """Why the weights shall not follow this loss, or None."""
    if settings.on_spike == "ignore":
        return None if math.isfinite(loss) else f"loss {loss}"
    return spike(loss, earlier, settings.spike_deviations)


def _go_back(checkpoints: Checkpoints, at: Position, wrong: str) -> Position | None:
    """Restore the newest checkpoint and leave out all batches since; None where there is none."""
    checkpoints.wait()
    back = Position(**checkpoints.restore())
    if back.step == 0:
        return None
    if at.rollbacks >= PATIENCE_WITH_BATCHES:
        raise UserError(
            f"step {at.step}: {wrong}, after {at.rollbacks} rollbacks", hint="lower train.learning_rate"
        )
    back = Position(back.step, at.left_out + at.step + 1 - back.step, at.rollbacks + 1)
    checkpoints.save(asdict(back))  # a run that is killed now must not meet the same batches again
    return back


def _give_up(
    checkpoints: Checkpoints, at: Position, batch: Batch, what: str, settings: TrainSection
) -> NoReturn:
    place = checkpoints.emergency(asdict(at) | {"what": what}, batch)
    raise UserError(
        f"{what}; the batch and the weights before it are in {place}",
        hint=f"lower train.learning_rate ({settings.learning_rate:g}), or set train.on_spike=skip",
    )


def _stale(probes: list[Record], patience: int) -> bool:
    """Whether the last `patience` probes all were no better than an earlier one."""
    values = [next(value for key, value in probe.items() if key != "step") for probe in probes]
    return len(values) > patience and min(values[-patience:]) >= min(values[:-patience])


def _seed_of(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0])
