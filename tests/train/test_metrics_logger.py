"""Metrics: step records, trackers, layer statistics, profiler."""

import contextlib
import json
import math
import sqlite3
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.jsonl_file import read_jsonl
from groundup.artifacts.machine import Machine
from groundup.recipe.train_config import TrainConfig
from groundup.train import UNSHIFTED, NativeEngine, Objective, run_training_loop
from groundup.train.jsonl_log import JsonlLog
from groundup.train.loss_spike import detect_spike
from groundup.train.metrics_logger import MetricsLogger
from groundup.train.throughput import NON_REPRODUCIBLE_FIELDS, ThroughputMeter, peak_flops
from groundup.train.trackers import TRACKERS, TensorBoard, TrackedRun

SETTINGS = TrainConfig(steps=6, learning_rate=0.01, warmup_steps=1, evaluate_every=3, precision="float32")


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(4, 4, bias=False) for _ in range(2))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


class Ones:
    def batch(self, step):
        return {"x": torch.ones(2, 4), "labels": torch.ones(2, 4, dtype=torch.long)}


SQUARES = Objective(lambda model, batch: model(batch["x"]).square().mean(), UNSHIFTED.count)


def run(folder, machine, settings=SETTINGS, **options):
    torch.manual_seed(0)
    engine = NativeEngine(Stack(), SQUARES, settings, machine)
    return run_training_loop(engine, Ones(), settings, folder, machine, **options)


def lines(path):
    return list(read_jsonl(path, checksum=True))


def test_fields_of_a_step_record(tmp_path):
    result = run(tmp_path, Machine(), step_stats=lambda step: {"epoch": step / 2}, flops_per_token=100.0)
    record = lines(tmp_path / "steps.jsonl")[3]
    assert record == result.records[3]
    assert {*NON_REPRODUCIBLE_FIELDS, "step", "loss", "learning_rate", "gradient_norm", "tokens", "epoch"} == set(
        record
    )
    assert record["tokens"] == 8
    assert record["epoch"] == 1.5
    assert record["tokens_per_second"] == pytest.approx(8 / record["seconds"], rel=1e-3)
    assert record["mfu"] == pytest.approx(800 / record["seconds"] / peak_flops(torch.device("cpu")), abs=1e-6)
    assert record["memory"] > 1e8


def test_records_are_written_during_the_run(tmp_path):
    counts = []

    class Looking(Ones):
        def batch(self, step):
            path = tmp_path / "steps.jsonl"
            counts.append(len(lines(path)) if path.exists() else 0)
            return super().batch(step)

    engine = NativeEngine(Stack(), SQUARES, SETTINGS, Machine())
    run_training_loop(engine, Looking(), SETTINGS, tmp_path, Machine())
    assert counts == list(range(6))


def test_jsonl_log_truncates_and_ignores_a_partial_line(tmp_path):
    path = tmp_path / "steps.jsonl"
    journal = JsonlLog(path)
    for step in range(5):
        journal.append({"step": step, "loss": math.nan if step == 1 else 1.0})
    with path.open("a") as file:
        file.write('{"step": 5, "lo')
    again = JsonlLog(path)
    assert [record["step"] for record in again.records] == list(range(5))
    assert again.records[1]["loss"] is None
    again.truncate(3)
    assert lines(path) == again.records == journal.records[:3]


def test_layer_stats_every_n_steps(tmp_path):
    run(tmp_path, Machine(log_layer_stats_every=2))
    records = lines(tmp_path / "layers.jsonl")
    assert [record["step"] for record in records] == [0, 2, 4]
    torch.manual_seed(0)
    model = Stack()
    hidden = model.blocks[0](torch.ones(2, 4))
    model(torch.ones(2, 4)).square().mean().backward()
    assert records[0]["activation"]["blocks.0"] == pytest.approx(hidden.square().mean().sqrt().item())
    gradient = model.blocks[1].weight.grad.norm().item()
    assert records[0]["gradient"]["blocks.1.weight"] == pytest.approx(gradient)


def test_profiler_writes_a_trace(tmp_path):
    run(tmp_path, Machine(profile_steps=(1, 2)))
    assert (tmp_path / "trace-1-2.json.gz").stat().st_size > 0


def test_full_disk_under_tensorboard_is_raised_without_a_traceback_of_its_thread(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.summary.writer.record_writer import RecordWriter

    full = OSError(28, "No space left on device")
    monkeypatch.setattr("threading.excepthook", lambda failed: pytest.fail(f"printed: {failed.exc_value}"))
    tracker = TensorBoard(TrackedRun(tmp_path, {}, 0))
    monkeypatch.setattr(RecordWriter, "write", lambda *_: (_ for _ in ()).throw(full))
    with pytest.raises(OSError, match="No space left"), contextlib.closing(tracker):
        tracker.log(1, {"loss": 1.0})


def test_tensorboard_shows_the_records(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, Machine(trackers=None), eval_fn=lambda model: {"bits_per_byte": 2.0})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = [event.value for event in events.Scalars("loss")]
    assert losses == pytest.approx([record["loss"] for record in lines(tmp_path / "steps.jsonl")])
    assert [event.step for event in events.Scalars("eval/bits_per_byte")] == [3, 6]


@pytest.mark.filterwarnings("ignore")  # their own and their libraries, which are not ours to mend
@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_other_trackers_work_offline(tmp_path, name, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    pytest.importorskip(name)
    run(tmp_path, Machine(trackers=(name,)))
    pattern = {"wandb": "**/*.wandb", "mlflow": "mlflow.db", "trackio": "trackio/*.db"}[name]
    (file,) = tmp_path.glob(pattern)
    if name == "wandb":  # in a format of its own
        assert file.stat().st_size > 0
        return
    question = {
        "mlflow": "select count(*) from metrics where key = 'loss'",
        "trackio": "select count(*) from metrics where cast(metrics as text) like '%\"loss\"%'",
    }[name]
    with contextlib.closing(sqlite3.connect(file)) as database:
        assert database.execute(question).fetchone() == (6,)


def crash_at(step: int) -> type[Ones]:
    class Crashing(Ones):
        def batch(self, index):
            if index == step:
                raise ZeroDivisionError
            return super().batch(index)

    return Crashing


def crash_and_resume(folder: Path, machine: Machine, **options) -> None:
    """A training that crashes before its first checkpoint, starts again, crashes after it, and resumes."""
    for step in (2, 5, None):
        torch.manual_seed(0)
        engine = NativeEngine(Stack(), SQUARES, SETTINGS, machine)
        batches = Ones() if step is None else crash_at(step)()
        context = contextlib.nullcontext() if step is None else pytest.raises(ZeroDivisionError)
        with context:
            run_training_loop(engine, batches, SETTINGS, folder, machine, **options)


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_shows_each_step_once_after_crashes(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    crash_and_resume(tmp_path, Machine(trackers=None), eval_fn=lambda model: {"bits_per_byte": 2.0})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(6))
    assert [event.step for event in events.Scalars("eval/bits_per_byte")] == [3, 6]


class FakeLibrary(ModuleType):
    """The functions of wandb, mlflow and trackio that are called here; keeps every call."""

    def __init__(self, name: str):
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.info = SimpleNamespace(run_id="made-by-mlflow")

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*arguments: Any, **options: Any) -> "FakeLibrary":
            self.calls.append((name, arguments, options))
            return self

        return call

    def options(self, name: str) -> list[dict[str, Any]]:
        return [options for called, _, options in self.calls if called == name]


def test_one_training_is_one_run_of_a_tracker(tmp_path, monkeypatch):
    libraries = {name: FakeLibrary(name) for name in ("wandb", "mlflow", "trackio")}
    for name, library in libraries.items():
        monkeypatch.setitem(sys.modules, name, library)
    folder = tmp_path / "my-recipe" / "04-base.partial"
    crash_and_resume(folder, Machine(trackers=tuple(libraries)))
    wandb, trackio = libraries["wandb"].options("init"), libraries["trackio"].options("init")
    assert len(wandb) == len(trackio) == 3
    assert len({(start["id"], start["resume"]) for start in wandb}) == 1
    assert len({start["name"] for start in trackio}) == 1
    assert wandb[0]["name"] == "my-recipe-04-base"
    assert trackio[0]["name"].startswith("my-recipe-04-base-")
    assert wandb[0]["config"]["train"]["learning_rate"] == 0.01
    assert libraries["mlflow"].options("start_run") == [
        {"run_name": "my-recipe-04-base"}, {"run_id": "made-by-mlflow"}, {"run_id": "made-by-mlflow"},
    ]  # fmt: skip
    (parameters,) = [arguments[0] for name, arguments, _ in libraries["mlflow"].calls if name == "log_params"]
    assert parameters["train.learning_rate"] == "0.01"
    assert json.loads((folder / "tracker_runs.json").read_text()).keys() == libraries.keys()
    assert all(
        len(library.options(end)) == 3
        for library, end in zip(libraries.values(), ("finish", "end_run", "finish"), strict=True)
    )


def test_other_ranks_open_no_tracker(tmp_path, monkeypatch):
    library = FakeLibrary("wandb")
    monkeypatch.setitem(sys.modules, "wandb", library)
    engine = NativeEngine(Stack(), SQUARES, SETTINGS, Machine())
    monkeypatch.setattr(engine, "is_main", False)
    logger = MetricsLogger(engine, SETTINGS, tmp_path, Machine(trackers=("wandb",)), None)
    logger.resume_at(0)
    assert library.calls == []
    assert list(tmp_path.iterdir()) == []


def test_tracker_that_is_not_installed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(TRACKERS, "wandb_is_not_here", TRACKERS["wandb"])
    with pytest.raises(UserError, match="wandb_is_not_here is not installed"):
        run(tmp_path, Machine(trackers=("wandb_is_not_here",)))


def test_detect_spike():
    calm = [2.0 + 0.01 * (step % 5) for step in range(100)]
    assert detect_spike(2.05, calm, 6.0) is None
    assert "deviations above" in detect_spike(2.2, calm, 6.0)
    assert detect_spike(1.0, calm, 6.0) is None
    assert detect_spike(9.9, calm[:10], 6.0) is None, "too early to tell"
    assert detect_spike(math.inf, [], 6.0) == "loss inf"


def test_throughput_excludes_evaluation_time():
    meter = ThroughputMeter(torch.device("cpu"))
    import time

    time.sleep(0.05)
    meter.exclude_elapsed()
    assert meter.step(100)["seconds"] < 0.05
    assert meter.summary()["seconds"] >= 0.05
