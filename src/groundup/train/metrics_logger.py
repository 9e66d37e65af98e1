"""Metrics of a training run: JSONL records, experiment trackers and the progress line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from groundup.artifacts.machine import Machine
from groundup.artifacts.progress import Progress, ProgressTask
from groundup.parallel import stall_detector
from groundup.recipe.train_config import TrainConfig
from groundup.train.engines import Engine
from groundup.train.jsonl_log import JsonlLog, Record
from groundup.train.layer_stats import LayerStats
from groundup.train.objectives import Batch
from groundup.train.profiler import Profiler
from groundup.train.throughput import ThroughputMeter
from groundup.train.trackers import TrackedRun, Tracker, open_trackers, scalar_values


class MetricsLogger:
    """Metrics of one run in `folder`: `steps.jsonl`, `eval.jsonl` and `layers.jsonl`. Only the main rank writes."""

    def __init__(
        self, engine: Engine, config: TrainConfig, folder: Path, machine: Machine, flops_per_token: float | None
    ):
        self._engine, self._folder, self._machine = engine, folder, machine
        self._progress = machine.progress if engine.is_main else Progress()
        self.steps, self.evaluations, layers = (
            JsonlLog(folder / f"{name}.jsonl" if engine.is_main else None, self.log_message)
            for name in ("steps", "eval", "layers")
        )
        self._layers = LayerStats(engine.module, machine.log_layer_stats_every, layers)
        self._trace = Profiler(machine.profile_steps if engine.is_main else None, folder)
        device = next(engine.module.parameters()).device
        self.throughput = ThroughputMeter(device, flops_per_token, engine.data_world_size)
        self._task = ProgressTask("", None, "")
        self._trackers: list[Tracker] = []
        model_config = getattr(engine.module, "config", None)
        self._config = {"train": config.model_dump(mode="json")}
        if isinstance(model_config, BaseModel):
            self._config["model"] = model_config.model_dump(mode="json")

    @contextmanager
    def task(self, name: str, steps: int) -> Iterator[None]:
        """Context in which progress is shown."""
        with self._progress.task(name, total=steps, unit="steps") as self._task:
            try:
                yield
            finally:
                for tracker in self._trackers:
                    tracker.close()

    def resume_at(self, step: int) -> None:
        """Drop records beyond `step` finished steps. All ranks then have the main rank's."""
        self._layers.log.truncate(step)
        for log, end in (self.steps, step), (self.evaluations, step + 1):
            log.truncate(end)
            log.records = self._engine.broadcast(log.records)
        self._task.resume_at(step)
        for tracker in self._trackers:
            tracker.close()
        if self._engine.is_main:
            self._trackers = open_trackers(self._machine.trackers, TrackedRun(self._folder, self._config, step))
            for record in self.evaluations.records:
                if record["step"] == step:  # TensorBoard hides it with the steps that follow it
                    self._track_evaluation(record)
        self.throughput.exclude_elapsed()

    @contextmanager
    def watch_step(self, step: int) -> Iterator[None]:
        """Context of a forward and backward pass: stall detection, profiling, layer statistics."""
        stall_detector.begin_step(step)
        with self._trace.step(step), self._layers.record(step):
            yield

    def log_step(self, record: Record, batch: Batch) -> None:
        """Write the record of a finished step, with its throughput."""
        tokens = next(iter(batch.values())).numel() * self._engine.data_world_size
        speed = self.throughput.step(tokens)
        record = record | {"tokens": tokens} | speed
        self.steps.append(record)
        for tracker in self._trackers:
            tracker.log(record["step"], scalar_values(record))
        status = [
            "skipped" if "skipped" in record else f"loss {record['loss']:.3f}",
            f"{speed['tokens_per_second']:,.0f} tokens/s",
        ]
        if "mfu" in speed:
            status.append(f"MFU {speed['mfu']:.0%}")
        status.append(f"{speed['memory'] / 1e9:.1f} GB")
        self._task.advance()
        self._task.set_status(", ".join(status))

    def evaluation(self, done: int) -> Record | None:
        """The main rank's record of the evaluation after `done` steps, on all ranks; None if there is none yet."""
        return self._engine.broadcast(next((r for r in self.evaluations.records if r["step"] == done), None))

    def log_evaluation(self, done: int, values: dict[str, Any]) -> None:
        """Write the evaluation after `done` steps."""
        record = {"step": done} | values
        self.evaluations.append(record)
        self._track_evaluation(record)
        self.throughput.exclude_elapsed()

    def _track_evaluation(self, record: Record) -> None:
        values = {f"eval/{key}": value for key, value in scalar_values(record).items()}
        for tracker in self._trackers:
            tracker.log(record["step"], values)

    def log_message(self, text: str) -> None:
        """Print a permanent line."""
        self._progress.log(text)

    def sync(self) -> None:
        """Flush the records to disk (fsync)."""
        self.steps.sync()
        self.evaluations.sync()
