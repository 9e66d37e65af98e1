"""All that a run says while it runs: the records, the boards that copy them, and the line that people watch."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from groundup.artifacts.machine import Machine
from groundup.artifacts.progress import Progress, ProgressTask
from groundup.parallel import stall_detector
from groundup.train.engines import Engine
from groundup.train.jsonl_log import JsonlLog, Record
from groundup.train.layer_stats import LayerStats
from groundup.train.objectives import Batch
from groundup.train.profiler import Profiler
from groundup.train.throughput import ThroughputMeter
from groundup.train.trackers import Tracker, open_trackers, scalar_values


class MetricsLogger:
    """What one run writes into `folder` and shows; on ranks other than the main one it only remembers.

    `steps.jsonl` has a line for each step, `eval.jsonl` for each probe, `layers.jsonl` for each look into the layers.
    """

    def __init__(self, engine: Engine, folder: Path, machine: Machine, flops_per_token: float | None):
        self._engine, self._folder, self._machine = engine, folder, machine
        self._progress = machine.progress if engine.is_main else Progress()
        self.steps, self.evaluations, layers = (
            JsonlLog(folder / f"{name}.jsonl" if engine.is_main else None)
            for name in ("steps", "eval", "layers")
        )
        self._layers = LayerStats(engine.module, machine.log_layer_stats_every, layers)
        self._trace = Profiler(machine.profile_steps if engine.is_main else None, folder)
        device = next(engine.module.parameters()).device
        self.throughput = ThroughputMeter(device, flops_per_token, engine.data_world_size)
        self._task = ProgressTask("", None, "")
        self._trackers: list[Tracker] = []
        self._name = ""

    @contextmanager
    def task(self, name: str, steps: int) -> Iterator[None]:
        """Show the progress of a run while the block runs."""
        self._name = name
        with self._progress.task(name, total=steps, unit="steps") as self._task:
            try:
                yield
            finally:
                for tracker in self._trackers:
                    tracker.close()

    def resume_at(self, step: int) -> None:
        """Forget what was written beyond `step` finished steps."""
        self.steps.truncate(step)
        self._layers.log.truncate(step)
        self.evaluations.truncate(step + 1)
        self._task.resume_at(step)
        for tracker in self._trackers:
            tracker.close()
        if self._engine.is_main:
            self._trackers = open_trackers(self._machine.trackers, self._folder, self._name, step)
        self.throughput.exclude_elapsed()

    @contextmanager
    def watch_step(self, step: int) -> Iterator[None]:
        """Look into the step's forward and backward pass where that was asked for."""
        stall_detector.begin_step(step)
        with self._trace.step(step), self._layers.record(step):
            yield

    def log_step(self, record: Record, batch: Batch) -> None:
        """A step is done: write its record, with how fast it was."""
        tokens = next(iter(batch.values())).numel() * self._engine.data_world_size
        speed = self.throughput.step(tokens)
        record = record | {"tokens": tokens} | speed
        self.steps.append(record)
        for tracker in self._trackers:
            tracker.log(record["step"], scalar_values(record))
        parts = [
            "left out" if "skipped" in record else f"loss {record['loss']:.3f}",
            f"{speed['tokens_per_second']:,.0f} tokens/s",
        ]
        if "mfu" in speed:
            parts.append(f"{speed['mfu']:.0%} of peak")
        parts.append(f"{speed['memory'] / 1e9:.1f} GB")
        self._task.advance()
        self._task.set_status(", ".join(parts))

    def has_evaluation(self, done: int) -> bool:
        """Whether the probe after `done` steps was written."""
        return bool(self.evaluations.records) and self.evaluations.records[-1]["step"] == done

    def log_evaluation(self, done: int, values: dict[str, Any]) -> None:
        """A probe after `done` steps is made: write what it found."""
        self.evaluations.append({"step": done} | values)
        for tracker in self._trackers:
            tracker.log(done, {f"eval/{key}": value for key, value in scalar_values(values).items()})
        self.throughput.exclude_elapsed()

    def log_message(self, text: str) -> None:
        """A line that stays."""
        self._progress.log(text)

    def accepted_losses(self) -> list[float]:
        """The losses that the weights followed, so far."""
        return [record["loss"] for record in self.steps.records[-256:] if "skipped" not in record]

    def consecutive_skips(self) -> int:
        """How many of the last steps in a row left their batch out."""
        count = 0
        for record in reversed(self.steps.records):
            if "skipped" not in record:
                break
            count += 1
        return count

    def sync(self) -> None:
        """Return when the records are safe from a power cut."""
        self.steps.sync()
        self.evaluations.sync()
