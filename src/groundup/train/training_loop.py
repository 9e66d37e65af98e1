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
from groundup.recipe.train_config import TrainConfig
from groundup.train.checkpoints import CheckpointManager
from groundup.train.device import deterministic_algorithms
from groundup.train.engines import Engine
from groundup.train.jsonl_log import Record
from groundup.train.loss_spike import detect_spike
from groundup.train.lr_schedule import lr_multiplier
from groundup.train.metrics_logger import MetricsLogger
from groundup.train.objectives import Batch
from groundup.train.prefetch import BatchSource
from groundup.train.signals import Interrupted, handle_signals

EvalFn = Callable[[nn.Module], dict[str, Any]]

MAX_CONSECUTIVE_SKIPS = 20
"""Steps in a row, or rollbacks, after which it is not the batches' fault."""


@dataclass(frozen=True)
class LoopState:
    """How far a run is: what the loop needs to continue, beside the engine's state.

    Attributes:
        step: finished steps.
        left_out: batches that a rollback left out, so that step s trains on batch s + left_out.
        rollbacks: how many there were.
    """

    step: int = 0
    skipped_batches: int = 0
    rollbacks: int = 0


@dataclass(frozen=True)
class TrainResult:
    """What a training run leaves, beside the trained weights: one record a step, and how fast it went."""

    records: list[Record]
    evaluations: list[Record]
    speed: dict[str, float]


def run_training_loop(
    engine: Engine,
    batches: BatchSource,
    config: TrainConfig,
    folder: Path,
    machine: Machine,
    *,
    eval_fn: EvalFn | None = None,
    step_stats: Callable[[int], Record] = lambda step: {},
    flops_per_token: float | None = None,
    seed: int = 0,
    name: str = "training",
) -> TrainResult:
    """Take `settings.steps` steps with `engine`; continues from the newest checkpoint in `folder`.

    Args:
        batches: `batches.batch(step)` gives tensors of equal first dimension: the sequences of this engine's part.
        settings: `steps`, `learning_rate`, `warmup_steps` and `evaluate_every` must be derived.
        folder: `steps.jsonl`, `eval.jsonl`, `checkpoints/` and what the trackers make are written here.
        probe: called on schedule and at the end, after the checkpoint; what it returns is recorded with the step. Its
            first value is what `settings.patience` waits for to fall.
        facts: what else the record of a step says about its batch.
        flops_per_token: the model's arithmetic, for the record's share of the device's peak.
        seed: every step's random numbers follow from it and from the step.

    The same settings, batches and machine give the same bits, however often the run was interrupted.
    Raises Interrupted after a signal, when everything is saved, and UserError on a loss that is not finite, naming the
    batch: the weights before it are kept, and the last checkpoint stays.
    """
    steps, every = config.steps, config.evaluate_every
    if steps is None or config.learning_rate is None or config.warmup_steps is None or every is None:
        raise ValueError(
            "settings are not derived: steps, learning_rate, warmup_steps and evaluate_every are needed"
        )
    folder.mkdir(parents=True, exist_ok=True)
    telling = MetricsLogger(engine, folder, machine, flops_per_token)

    def maybe_evaluate(done: int) -> bool:
        """Probe after `done` steps when it is due; true when the probes say that training may end."""
        if eval_fn is None or done == 0 or (done % every and done != steps):
            return False
        if not telling.has_evaluation(done):
            with engine.eval_model() as model:
                telling.log_evaluation(done, eval_fn(model))
        return config.early_stopping_patience is not None and _no_improvement(
            telling.evaluations.records, config.early_stopping_patience
        )

    with (
        CheckpointManager(folder / "checkpoints", engine, machine, telling.sync) as checkpoints,
        handle_signals() as wish,
        telling.task(name, steps),
    ):
        at = LoopState(**checkpoints.restore())
        telling.resume_at(at.step)
        ended = maybe_evaluate(at.step)  # due, when the run was killed between a save and its probe
        saved = time.monotonic()
        while at.step < steps and not ended:
            step, number = at.step, at.step + at.skipped_batches
            batch = batches.batch(number)
            share = lr_multiplier(step, steps, config.warmup_steps, config)
            torch.manual_seed(_seed_of(seed, step, engine.data_rank))
            with telling.watch_step(step), deterministic_algorithms(engine.device, machine.deterministic):
                loss = engine.forward_backward(batch)
            wrong = _check_loss(loss, telling.accepted_losses(), config)
            norm = engine.zero_grad() if wrong else engine.optimizer_step(share)
            if norm is not None and not math.isfinite(norm):
                wrong = f"gradient norm {norm}"
            if wrong and (
                config.on_spike == "ignore" or telling.consecutive_skips() >= MAX_CONSECUTIVE_SKIPS
            ):
                _abort(checkpoints, at, batch, f"step {step}, batch {number}: {wrong}", config)
            if wrong and config.on_spike == "rollback" and (back := _rollback(checkpoints, at, wrong)):
                telling.log_message(
                    f"step {step}: {wrong}; back to step {back.step}, without the batches since"
                )
                telling.resume_at(back.step)
                at = back
                continue
            if wrong:
                telling.log_message(f"step {step}: {wrong}; batch {number} is left out")
            record = {"step": step, "loss": loss, "learning_rate": config.learning_rate * share}
            record |= {"gradient_norm": norm} | ({"skipped": wrong} if wrong else {}) | step_stats(number)
            telling.log_step(record, batch)
            at = replace(at, step=step + 1)
            due = at.step == steps or (eval_fn is not None and at.step % every == 0)
            late = wish.stop_requested or time.monotonic() - saved >= machine.checkpoint_every_seconds
            if due or engine.any_rank(late):
                checkpoints.save(asdict(at))
                saved = time.monotonic()
                if engine.any_rank(wish.stop_requested):
                    raise Interrupted
                ended = maybe_evaluate(at.step)
    return TrainResult(telling.steps.records, telling.evaluations.records, telling.throughput.summary())


def _check_loss(loss: float, earlier: list[float], settings: TrainConfig) -> str | None:
    """Why the weights shall not follow this loss, or None."""
    if settings.on_spike == "ignore":
        return None if math.isfinite(loss) else f"loss {loss}"
    return detect_spike(loss, earlier, settings.spike_deviations)


def _rollback(checkpoints: CheckpointManager, at: LoopState, wrong: str) -> LoopState | None:
    """Restore the newest checkpoint and leave out all batches since; None where there is none."""
    checkpoints.wait()
    back = LoopState(**checkpoints.restore())
    if back.step == 0:
        return None
    if at.rollbacks >= MAX_CONSECUTIVE_SKIPS:
        raise UserError(
            f"step {at.step}: {wrong}, after {at.rollbacks} rollbacks", hint="lower train.learning_rate"
        )
    back = LoopState(back.step, at.skipped_batches + at.step + 1 - back.step, at.rollbacks + 1)
    checkpoints.save(asdict(back))  # a run that is killed now must not meet the same batches again
    return back


def _abort(
    checkpoints: CheckpointManager, at: LoopState, batch: Batch, what: str, settings: TrainConfig
) -> NoReturn:
    place = checkpoints.save_emergency(asdict(at) | {"what": what}, batch)
    raise UserError(
        f"{what}; the batch and the weights before it are in {place}",
        hint=f"lower train.learning_rate ({settings.learning_rate:g}), or set train.on_spike=skip",
    )


def _no_improvement(probes: list[Record], patience: int) -> bool:
    """Whether the last `patience` probes all were no better than an earlier one."""
    values = [next(value for key, value in probe.items() if key != "step") for probe in probes]
    return len(values) > patience and min(values[-patience:]) >= min(values[:-patience])


def _seed_of(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0])
