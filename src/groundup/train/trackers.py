"""Copies of the records for the boards that people look at. The truth is in the journal; these may be thrown away.

TensorBoard's files are the default. The others work offline as their own variables say (WANDB_MODE=offline,
MLFLOW_TRACKING_URI, TRACKIO_DIR), and nothing is sent anywhere unless the recipe names one of them.
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
    """Event files in `folder/tensorboard`, to be looked at with `tensorboard --logdir`."""

    def __init__(self, folder: Path, name: str, first_step: int):
        from torch.utils.tensorboard import SummaryWriter

        # What a killed run wrote beyond `first` is not shown.
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
        with redirect_stdout(sys.stderr):  # what it says is no result
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
    """The trackers of these names, for a run that begins at step `first`. None: TensorBoard, where it is installed.

    Raises UserError for one that is named and not installed.
    """
    if names is None:
        names = ["tensorboard"] if importlib.util.find_spec("tensorboard") else []
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    for wanted in names:
        if importlib.util.find_spec(wanted) is None:
            raise UserError(
                f"machine.trackers names {wanted}, which is not installed", hint=f"pip install {wanted}"
            )
    return [TRACKERS[wanted](folder, name, first_step) for wanted in names]


def scalar_values(record: Mapping[str, Any]) -> dict[str, float]:
    """What of a record a board can draw."""
    return {
        key: float(value) for key, value in record.items() if isinstance(value, int | float) and key != "step"
    }
