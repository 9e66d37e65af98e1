"""The training loop, the only one: pretraining and fine-tuning give it an engine and batches."""

import math
import tempfile
import time
from collections.abc import Callable, Sequence
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
from groundup.train.device import deterministic_algorithms, setup_device
from groundup.train.engines import Engine, build_engine
from groundup.train.jsonl_log import Record
from groundup.train.loss_spike import WINDOW, detect_spike
from groundup.train.lr_schedule import lr_multiplier
from groundup.train.metrics_logger import MetricsLogger
from groundup.train.objectives import Batch, Objective, default_objective
from groundup.train.prefetch import BatchSource
from groundup.train.signals import Interrupted, handle_signals

EvalFn = Callable[[nn.Module], dict[str, Any]]

MAX_CONSECUTIVE_SKIPS = 20
"""Skipped steps in a row, or rollbacks, after which training stops: the batches are not the cause."""


@dataclass(frozen=True)
class LoopState:
    """All that the loop decides by; saved with each checkpoint and equal on all ranks.

    Attributes:
        step: finished steps.
        skipped_batches: batches that rollbacks skipped: step s trains on batch s + skipped_batches.
        rollbacks: number of rollbacks.
        consecutive_skips: steps skipped in a row, up to now.
        losses: of the last steps that were not skipped, for spike detection.
        evaluated: step of the last evaluation.
        best: lowest first value of an evaluation.
        best_step: step of that evaluation.
        evaluations_since_best: number of evaluations after it.
    """

    step: int = 0
    skipped_batches: int = 0
    rollbacks: int = 0
    consecutive_skips: int = 0
    losses: Sequence[float] = ()
    evaluated: int = 0
    best: float | None = None
    best_step: int | None = None
    evaluations_since_best: int = 0

    def after_step(self, loss: float, problem: str | None) -> "LoopState":
        """The state after a step, which was skipped if there is a problem."""
        if problem:
            return replace(self, step=self.step + 1, consecutive_skips=self.consecutive_skips + 1)
        losses = [*self.losses, loss][-WINDOW:]
        return replace(self, step=self.step + 1, consecutive_skips=0, losses=losses)

    def after_evaluation(self, record: Record) -> "LoopState":
        """The state after an evaluation, whose first value counts. Values that are not finite are never the best."""
        value = next(value for key, value in record.items() if key != "step")
        if value is not None and math.isfinite(value) and (self.best is None or value < self.best):
            return replace(self, evaluated=self.step, best=value, best_step=self.step, evaluations_since_best=0)
        return replace(self, evaluated=self.step, evaluations_since_best=self.evaluations_since_best + 1)


@dataclass(frozen=True)
class TrainResult:
    """One record a step, one an evaluation, and the mean speed.

    In records, seconds and tokens are those of the step, and memory is the peak in bytes.

    Attributes:
        kept_step: the weights are those after this many steps: the last, or with `keep_best_weights` those of the best
            evaluation.
        stopped_early: whether early stopping ended the training before its last step.
    """

    records: list[Record]
    evaluations: list[Record]
    speed: dict[str, float]
    kept_step: int
    stopped_early: bool


@dataclass(frozen=True)
class _RepeatedBatches:
    batches: Sequence[Batch]

    def batch(self, step: int) -> Batch:
        return self.batches[step % len(self.batches)]


def train(
    model: nn.Module,
    batches: BatchSource | Sequence[Batch],
    *,
    steps: int,
    learning_rate: float = 3e-4,
    objective: Objective | None = None,
    eval_fn: EvalFn | None = None,
    folder: Path | str | None = None,
    device: str = "auto",
    seed: int = 0,
    **config: Any,
) -> TrainResult:
    """Train `model` in place; afterwards it is on the CPU and in evaluation mode.

        model = build_model(ModelConfig(vocab_size=256, hidden_size=64, num_layers=2, num_heads=2, context_length=64))
        result = train(model, make_batches(tokens, sequence_length=64, batch_size=8), steps=100, learning_rate=1e-3)
        result.records[-1]["loss"]

    Args:
        batches: an object whose `batch(step)` returns a dict of tensors, or a list of such dicts, which is repeated.
        objective: loss and number of targets; default: next tokens for a decoder, else the labels as they are.
        eval_fn: called with the model every `evaluate_every` steps and at the end; its values are recorded.
        folder: for metrics and checkpoints, from which a second call with the same arguments resumes; other models and
            options need a new folder. None: nothing is kept.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        config: more fields of TrainConfig, such as warmup_steps, optimizer="muon", weight_decay or precision.
    """
    if not isinstance(batches, BatchSource):
        if not isinstance(batches, Sequence):
            raise UserError(f"batches is a {type(batches).__name__}, expected a list of dicts", hint="list(batches)")
        if not batches or not isinstance(batches[0], dict):
            content = f"a list of {type(batches[0]).__name__}" if batches else "empty"
            raise UserError(f"batches is {content}, expected a list of dicts", hint="make_batches(ids, ...)")
    defaults = {"warmup_steps": steps // 50, "evaluate_every": max(1, steps // 20), "precision": "float32"}
    train_config = TrainConfig(**{"steps": steps, "learning_rate": learning_rate} | defaults | config)
    machine = Machine(device=device)
    model.to(setup_device(machine))
    engine = build_engine(model, objective or default_objective(model), train_config, machine)
    source = batches if isinstance(batches, BatchSource) else _RepeatedBatches(batches)
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(folder or temporary)
        result = run_training_loop(engine, source, train_config, out, machine, eval_fn=eval_fn, seed=seed)
    engine.finalize()
    return result


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
    """Run `config.steps` steps, resuming from the newest checkpoint in `folder`.

    Args:
        batches: `batches.batch(step)` returns tensors of equal first dimension: the sequences of this engine's data rank.
        config: `steps`, `learning_rate`, `warmup_steps` and `evaluate_every` must be set.
        folder: for `steps.jsonl`, `eval.jsonl`, `checkpoints/` and the files of experiment trackers.
        eval_fn: called on schedule and at the end, after the checkpoint; its values are recorded with the step. Early
            stopping and `keep_best_weights` compare the first value, lower is better.
        step_stats: further fields for the record of a batch.
        flops_per_token: of the model, for the model FLOPs utilization.
        seed: the random numbers of a step depend on it and on the step.

    Results are bit-reproducible for the same config, batches and machine, whether or not the run was interrupted.
    Raises Interrupted after a signal, once the state is saved, and UserError on a loss that is not finite, with the batch
    and the weights before it saved.
    """
    steps, every, peak_lr = config.steps, config.evaluate_every, config.learning_rate
    if steps is None or peak_lr is None or config.warmup_steps is None or every is None:
        raise ValueError(
            "TrainConfig without derived values: steps, learning_rate, warmup_steps and evaluate_every are needed"
        )
    folder.mkdir(parents=True, exist_ok=True)
    logger = MetricsLogger(engine, config, folder, machine, flops_per_token)

    def maybe_evaluate(state: LoopState) -> LoopState:
        """Evaluate if due, unless the record is there from before an interruption."""
        done = state.step
        if eval_fn is None or done == state.evaluated or (done % every and done != steps):
            return state
        if (record := logger.evaluation(done)) is None:
            with engine.eval_model() as model:
                logger.log_evaluation(done, eval_fn(model))
            record = logger.evaluation(done)
            assert record is not None
        return state.after_evaluation(record)

    def stop_early() -> bool:
        patience = config.early_stopping_patience
        return patience is not None and state.evaluations_since_best >= patience

    with (
        CheckpointManager(
            folder / "checkpoints", engine, machine, logger.sync, bool(config.keep_best_weights)
        ) as checkpoints,
        handle_signals() as request,
        logger.task(name, steps),
    ):
        state = LoopState(**checkpoints.restore())
        logger.resume_at(state.step)
        state = maybe_evaluate(state)  # a checkpoint is saved before the evaluation of its step
        last_save = time.monotonic()
        while state.step < steps and not stop_early():
            step, index = state.step, state.step + state.skipped_batches
            batch = batches.batch(index)
            multiplier = lr_multiplier(
                step, steps, config.warmup_steps, config.lr_schedule, config.min_lr_ratio, config.decay_fraction
            )
            torch.manual_seed(_step_seed(seed, step, engine.data_rank))
            with logger.watch_step(step), deterministic_algorithms(engine.device, machine.deterministic):
                loss = engine.forward_backward(batch)
            problem = _check_loss(loss, state.losses, config)
            norm = engine.zero_grad() if problem else engine.optimizer_step(multiplier)
            if norm is not None and not math.isfinite(norm):
                problem = f"gradient norm {norm}"
            is_final = config.on_spike == "ignore" or state.consecutive_skips >= MAX_CONSECUTIVE_SKIPS
            if problem and is_final:
                _abort(checkpoints, state, batch, f"step {step}, batch {index}: {problem}", peak_lr)
            if problem and config.on_spike == "rollback" and (restored := _rollback(checkpoints, state, problem)):
                logger.log_message(
                    f"step {step}: {problem}; rolled back to step {restored.step}, skipping the batches since"
                )
                logger.resume_at(restored.step)
                state = maybe_evaluate(restored)
                continue
            if problem:
                logger.log_message(f"step {step}: {problem}; batch {index} skipped")
            record = {"step": step, "loss": loss, "learning_rate": peak_lr * multiplier, "gradient_norm": norm}
            record |= ({"skipped": problem} if problem else {}) | step_stats(index)
            logger.log_step(record, batch)
            state = state.after_step(loss, problem)
            eval_due = eval_fn is not None and state.step % every == 0
            save_due = time.monotonic() - last_save >= machine.checkpoint_every_seconds
            save_due = engine.any_rank(save_due or request.stop_requested)
            if state.step == steps or eval_due or save_due:
                checkpoints.save(asdict(state))
                last_save = time.monotonic()
                if engine.any_rank(request.stop_requested):
                    raise Interrupted
                state = maybe_evaluate(state)
        if state.step < steps:
            logger.log_message(
                f"stopped at step {state.step} of {steps}: no evaluation was better than that of step {state.best_step}"
            )
        kept = state.step
        best = state.best_step if config.keep_best_weights else None
        if best is not None and best != kept and checkpoints.restore_step(best):
            kept = best
    return TrainResult(
        logger.steps.records, logger.evaluations.records, logger.throughput.summary(), kept, state.step < steps
    )


def _check_loss(loss: float, earlier: Sequence[float], config: TrainConfig) -> str | None:
    """A description of the problem if the step must be skipped, else None."""
    if config.on_spike == "ignore":
        return None if math.isfinite(loss) else f"loss {loss}"
    return detect_spike(loss, earlier, config.spike_deviations)


def _rollback(checkpoints: CheckpointManager, state: LoopState, problem: str) -> LoopState | None:
    """Restore the newest checkpoint and skip all batches since; None if there is none."""
    checkpoints.wait()
    restored = LoopState(**checkpoints.restore())
    if restored.step == 0:
        return None
    if state.rollbacks >= MAX_CONSECUTIVE_SKIPS:
        raise UserError(
            f"step {state.step}: {problem}, after {state.rollbacks} rollbacks", hint="lower train.learning_rate"
        )
    skipped = state.skipped_batches + state.step + 1 - restored.step
    restored = replace(restored, skipped_batches=skipped, rollbacks=state.rollbacks + 1)
    checkpoints.save(asdict(restored))  # so that a run killed now skips the same batches
    return restored


def _abort(
    checkpoints: CheckpointManager, state: LoopState, batch: Batch, problem: str, learning_rate: float
) -> NoReturn:
    path = checkpoints.save_emergency(asdict(state) | {"problem": problem}, batch)
    raise UserError(
        f"{problem}; the batch and the weights before it are saved in {path}",
        hint=f"lower train.learning_rate ({learning_rate:g}), or set train.on_spike=skip",
    )


def _step_seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0])
