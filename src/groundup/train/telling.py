"""All that a run says while it runs: the records, the boards that copy them, and the line that people watch."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from groundup.artifacts.machine import Machine
from groundup.artifacts.progress import Progress, Task
from groundup.parallel import watch
from groundup.train.engines import Engine
from groundup.train.journal import Journal, Record
from groundup.train.layers import Layers
from groundup.train.meter import Meter
from groundup.train.objectives import Batch
from groundup.train.trace import Trace
from groundup.train.trackers import Tracker, numbers, open_trackers


class Telling:
    """What one run writes into `folder` and shows; on ranks other than the main one it only remembers.

    `steps.jsonl` has a line for each step, `probes.jsonl` for each probe, `layers.jsonl` for each look into the layers.
    """

    def __init__(self, engine: Engine, folder: Path, machine: Machine, flops_per_token: float | None):
        self._engine, self._folder, self._machine = engine, folder, machine
        self._progress = machine.progress if engine.main else Progress()
        self.steps, self.probes, layers = (
            Journal(folder / f"{name}.jsonl" if engine.main else None)
            for name in ("steps", "probes", "layers")
        )
        self._layers = Layers(engine.module, machine.layers_every, layers)
        self._trace = Trace(machine.trace_steps if engine.main else None, folder)
        device = next(engine.module.parameters()).device
        self.meter = Meter(device, flops_per_token, engine.data_ranks)
        self._task = Task("", None, "")
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

    def start_at(self, step: int) -> None:
        """Forget what was written beyond `step` finished steps."""
        self.steps.start_at(step)
        self._layers.journal.start_at(step)
        self.probes.start_at(step + 1)
        self._task.start_at(step)
        for tracker in self._trackers:
            tracker.close()
        if self._engine.main:
            self._trackers = open_trackers(self._machine.trackers, self._folder, self._name, step)
        self.meter.pause()

    @contextmanager
    def watched(self, step: int) -> Iterator[None]:
        """Look into the step's forward and backward pass where that was asked for."""
        watch.reached(step)
        with self._trace.step(step), self._layers.watched(step):
            yield

    def step(self, record: Record, batch: Batch) -> None:
        """A step is done: write its record, with how fast it was."""
        tokens = next(iter(batch.values())).numel() * self._engine.data_ranks
        speed = self.meter.step(tokens)
        record = record | {"tokens": tokens} | speed
        self.steps.append(record)
        for tracker in self._trackers:
            tracker.log(record["step"], numbers(record))
        parts = [
            "left out" if "left_out" in record else f"loss {record['loss']:.3f}",
            f"{speed['tokens_per_second']:,.0f} tokens/s",
        ]
        if "mfu" in speed:
            parts.append(f"{speed['mfu']:.0%} of peak")
        parts.append(f"{speed['memory'] / 1e9:.1f} GB")
        self._task.advance()
        self._task.note(", ".join(parts))

    def probed(self, done: int) -> bool:
        """Whether the probe after `done` steps was written."""
        return bool(self.probes.records) and self.probes.records[-1]["step"] == done

    def probe(self, done: int, values: dict[str, Any]) -> None:
        """A probe after `done` steps is made: write what it found."""
        self.probes.append({"step": done} | values)
        for tracker in self._trackers:
            tracker.log(done, {f"probe/{key}": value for key, value in numbers(values).items()})
        self.meter.pause()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._progress.say(text)

    def losses(self) -> list[float]:
        """The losses that the weights followed, so far."""
        return [record["loss"] for record in self.steps.records[-256:] if "left_out" not in record]

    def refused(self) -> int:
        """How many of the last steps in a row left their batch out."""
        count = 0
        for record in reversed(self.steps.records):
            if "left_out" not in record:
                break
            count += 1
        return count

    def sync(self) -> None:
        """Return when the records are safe from a power cut."""
        self.steps.sync()
        self.probes.sync()
