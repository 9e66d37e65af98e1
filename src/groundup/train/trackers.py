"""Experiment trackers: copies of the metrics in TensorBoard, Weights & Biases, MLflow or Trackio.

TensorBoard is the default. The others work offline by their own environment variables (WANDB_MODE=offline,
MLFLOW_TRACKING_URI, TRACKIO_DIR); nothing is sent anywhere unless machine.trackers names one of them.
"""

import importlib.util
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Protocol

from groundup.artifacts.errors import UserError


class Tracker(Protocol):
    def log(self, step: int, values: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Event files in `folder/tensorboard`, for `tensorboard --logdir`."""

    def __init__(self, folder: Path, name: str, first_step: int):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step or None)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    def __init__(self, folder: Path, name: str, first_step: int):
        import wandb  # pyright: ignore[reportMissingImports]

        self._run = wandb.init(project="groundup", name=name, dir=str(folder))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    def __init__(self, folder: Path, name: str, first_step: int):
        import mlflow  # pyright: ignore[reportMissingImports]

        self._mlflow = mlflow
        mlflow.set_experiment("groundup")
        mlflow.start_run(run_name=name)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    def close(self) -> None:
        self._mlflow.end_run()


class Trackio:
    def __init__(self, folder: Path, name: str, first_step: int):
        import trackio  # pyright: ignore[reportMissingImports]

        self._trackio = trackio
        with redirect_stdout(sys.stderr):  # stdout is for results
            trackio.init(project="groundup", name=name)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._trackio.log(dict(values), step=step)

    def close(self) -> None:
        with redirect_stdout(sys.stderr):
            self._trackio.finish()


TRACKERS: dict[str, Callable[[Path, str, int], Tracker]] = {
    "tensorboard": TensorBoard, "wandb": WeightsAndBiases, "mlflow": MLflow, "trackio": Trackio,
}  # fmt: skip


def open_trackers(names: Sequence[str] | None, folder: Path, name: str, first_step: int) -> list[Tracker]:
    """The trackers `names`, for a run that starts at `first_step`. None: TensorBoard if it is installed.

    Raises UserError for a tracker that is not installed.
    """
    if names is None:
        names = ["tensorboard"] if importlib.util.find_spec("tensorboard") else []
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    for tracker in names:
        if importlib.util.find_spec(tracker) is None:
            raise UserError(f"machine.trackers: {tracker} is not installed", hint=f"pip install {tracker}")
    return [TRACKERS[tracker](folder, name, first_step) for tracker in names]


def scalar_values(record: Mapping[str, Any]) -> dict[str, float]:
    """The numeric fields of a record."""
    return {key: float(value) for key, value in record.items() if isinstance(value, int | float) and key != "step"}
