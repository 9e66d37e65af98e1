"""Experiment trackers: copies of the metrics in TensorBoard, Weights & Biases, MLflow or Trackio.

TensorBoard is the default. The others work offline by their own environment variables (WANDB_MODE=offline,
MLFLOW_TRACKING_URI, TRACKIO_DIR); nothing is sent anywhere unless machine.trackers names one of them.

One training is one run of a tracker: its id is kept in the folder of the training, where a restart or a resume finds it.
"""

import importlib.util
import json
import logging
import sys
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from groundup.artifacts.directory import write_atomically
from groundup.artifacts.errors import UserError
from groundup.artifacts.json_file import read_json_object

PROJECT = "groundup"
RUN_IDS_FILE = "tracker_runs.json"
MAX_PARAMETER_LETTERS = 500
"""Of MLflow, in every version."""


@dataclass(frozen=True)
class TrackedRun:
    """A training as trackers see it, from `first_step` on.

    Attributes:
        config: knobs by section.
    """

    folder: Path
    config: Mapping[str, Any]
    first_step: int

    @property
    def name(self) -> str:
        """Recipe and stage, such as quickstart-04-base: the folder's name, and that of the run folder around it."""
        folder = self.folder.absolute()
        return f"{folder.parent.name}-{folder.name.removesuffix('.partial')}"

    def kept_id(self, tracker: str) -> str | None:
        """The tracker's id of this training; None at its first start."""
        path = self.folder / RUN_IDS_FILE
        return read_json_object(path, hint="remove the file to start a new run").get(tracker) if path.exists() else None

    def keep_id(self, tracker: str, run_id: str) -> str:
        path = self.folder / RUN_IDS_FILE
        ids = read_json_object(path) if path.exists() else {}
        write_atomically(path, json.dumps(ids | {tracker: run_id}, indent=1).encode())
        return run_id

    def own_id(self, tracker: str) -> str:
        """The kept id, or a new one."""
        return self.kept_id(tracker) or self.keep_id(tracker, uuid.uuid4().hex[:8])


class Tracker(Protocol):
    def log(self, step: int, values: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Event files in `folder/tensorboard`, for `tensorboard --logdir`."""

    def __init__(self, run: TrackedRun):
        from torch.utils.tensorboard import SummaryWriter

        threading.excepthook = _without_writer_errors(threading.excepthook)
        # Hides what a start that was killed wrote from there on; also from step 0, before the first checkpoint.
        self._writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.first_step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)

    def close(self) -> None:
        self._writer.close()


def _without_writer_errors(hook: Callable[[Any], object]) -> Callable[[Any], object]:
    """`hook` for all threads but TensorBoard's writer, whose exception is raised again by the next call of `log` or `close`."""
    return lambda failed: None if type(failed.thread).__name__ == "_AsyncWriterThread" else hook(failed)


class WeightsAndBiases:
    """After a resume W&B ignores steps that it has: they have the same values."""

    def __init__(self, run: TrackedRun):
        import wandb  # pyright: ignore[reportMissingImports]

        self._run = wandb.init(
            project=PROJECT,
            id=run.own_id("wandb"),
            resume="allow",
            name=run.name,
            config=dict(run.config),
            dir=str(run.folder),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    def __init__(self, run: TrackedRun):
        import mlflow  # pyright: ignore[reportMissingImports]

        self._mlflow = mlflow
        mlflow.set_experiment(PROJECT)
        if (run_id := run.kept_id("mlflow")) is not None:
            mlflow.start_run(run_id=run_id)
            return
        run.keep_id("mlflow", mlflow.start_run(run_name=run.name).info.run_id)
        mlflow.log_params(
            {
                f"{section}.{name}": str(value)[:MAX_PARAMETER_LETTERS]
                for section, values in run.config.items()
                for name, value in values.items()
            }
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    def close(self) -> None:
        self._mlflow.end_run()


class Trackio:
    """Trackio tells runs apart by name."""

    def __init__(self, run: TrackedRun):
        import trackio  # pyright: ignore[reportMissingImports]

        self._trackio = trackio
        with redirect_stdout(sys.stderr):  # stdout is for results
            name = f"{run.name}-{run.own_id('trackio')}"
            trackio.init(project=PROJECT, name=name, config=dict(run.config), resume="allow")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._trackio.log(dict(values), step=step)

    def close(self) -> None:
        with redirect_stdout(sys.stderr):
            self._trackio.finish()


TRACKERS: dict[str, Callable[[TrackedRun], Tracker]] = {
    "tensorboard": TensorBoard, "wandb": WeightsAndBiases, "mlflow": MLflow, "trackio": Trackio,
}  # fmt: skip


def open_trackers(names: Sequence[str] | None, run: TrackedRun) -> list[Tracker]:
    """The trackers `names`. None: TensorBoard if it is installed.

    Raises UserError for a tracker that is not installed.
    """
    if names is None:
        names = ["tensorboard"] if importlib.util.find_spec("tensorboard") else []
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    check_trackers(names)
    return [TRACKERS[tracker](run) for tracker in names]


def check_trackers(names: Sequence[str]) -> None:
    """Raises UserError for a tracker that is not installed."""
    for tracker in names:
        if importlib.util.find_spec(tracker) is None:
            raise UserError(f"machine.trackers: {tracker} is not installed", hint=f"pip install {tracker}")


def scalar_values(record: Mapping[str, Any]) -> dict[str, float]:
    """The numeric fields of a record."""
    return {key: float(value) for key, value in record.items() if isinstance(value, int | float) and key != "step"}
