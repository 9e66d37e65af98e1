"""Which trainings a run holds, and what one of them has done so far.

`steps.jsonl` has a record for each step, numbered from 0; `eval.jsonl` one for each look at held-out text, numbered by
the steps done. Where several ranks train, the first writes for all.
"""

import math
import time
from array import array
from bisect import bisect_left
from pathlib import Path
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.report.run_data import PLAN, RECIPE, read_json
from groundup.viewers.jsonl_tail import JsonlTail, JsonRecord

STEPS_FILE, EVAL_FILE, LOCK_FILE = "steps.jsonl", "eval.jsonl", ".lock"
COLUMNS = ("step", "loss", "learning_rate", "tokens_per_second", "memory", "seconds")
EVAL_COLUMNS = ("step", "bits_per_byte", "loss")
DEFAULT_STAGE = "base"
"""The training that is shown when none is going on."""


class StepColumns:
    """Records as columns of numbers; NaN where a record says nothing. Of a step that repeats, the later one counts."""

    def __init__(self, names: tuple[str, ...] = COLUMNS):
        self.names = names
        self.clear()

    def clear(self) -> None:
        self.columns = {name: array("d") for name in self.names}

    def add(self, record: JsonRecord) -> None:
        """The next record: all from its step on are forgotten first, for the run went back there."""
        steps = self.columns["step"]
        if steps and record["step"] <= steps[-1]:
            place = bisect_left(steps, record["step"])
            for column in self.columns.values():
                del column[place:]
        for name, column in self.columns.items():
            value = record.get(name)
            seen = isinstance(value, int | float) and not (name == "loss" and "skipped" in record)
            column.append(value if seen else math.nan)  # pyright: ignore[reportArgumentType]


class RunReader:
    """A run folder, or one training's folder in it, looked at again and again."""

    def __init__(self, path: Path, stage: str | None = None):
        """`stage`: the training to look at, by name; None: the one that is going on, else the pretraining.

        Raises UserError when there is nothing that could ever be looked at.
        """
        if not path.is_dir():
            raise UserError(f"{path}: no such folder", hint="groundup run RECIPE makes one, under runs/")
        self.path, self.requested_stage = path, stage
        self._is_stage_folder = (path / STEPS_FILE).is_file()
        begun = (path / RECIPE).is_file() or (path / LOCK_FILE).is_file()
        if not self._is_stage_folder and not begun:
            raise UserError(
                f"{path}: neither a run (no {RECIPE}) nor a training (no {STEPS_FILE})",
                hint="groundup run RECIPE makes one, under runs/",
            )
        self.plan: dict[str, Any] = {}
        self.folder: Path | None = None
        self.steps, self.evaluations = StepColumns(), StepColumns(EVAL_COLUMNS)
        self._tails = JsonlTail(), JsonlTail()
        self.version = 0
        """Grows whenever there is something new to see."""

    def trainings(self) -> dict[str, Path]:
        """The folders that have a journal, by the name of their stage, in order; the one that grows before a finished one."""
        if self._is_stage_folder:
            return {stage_name(self.path): self.path}
        folders = [
            path
            for path in sorted(self.path.iterdir())
            if path.suffix != ".old" and (path / STEPS_FILE).is_file()
        ]
        return {stage_name(path): path for path in folders}  # NAME.partial sorts behind NAME

    def refresh(self) -> None:
        """Read what is new. Raises UserError when the folder is gone, or holds other trainings than the wanted one."""
        if not self.path.is_dir():
            raise UserError(f"{self.path}: the folder is gone", hint="groundup run RECIPE makes it again")
        if not self._is_stage_folder:
            self.plan = read_json(self.path / PLAN, {})
            if self.plan and "train" not in self.plan:
                raise UserError(f"{self.path}: its recipe trains no model", hint="add [train] to it")
        found = self.trainings()
        if self.requested_stage is not None and self.requested_stage not in found and found:
            going = ", ".join(found)
            raise UserError(
                f"{self.path}: no training {self.requested_stage!r} yet", hint=f"there is {going}"
            )
        growing = [name for name, path in found.items() if path.suffix == ".partial"]
        name = (
            self.requested_stage
            or (growing or [DEFAULT_STAGE if DEFAULT_STAGE in found else next(iter(found), "")])[-1]
        )
        folder = found.get(name)
        if folder != self.folder:
            if folder is None or self.folder is None or stage_name(folder) != stage_name(self.folder):
                self.steps, self.evaluations = StepColumns(), StepColumns(EVAL_COLUMNS)
                self._tails = JsonlTail(), JsonlTail()
            self.folder = folder
            self.version += 1
        if folder is None:
            return
        for tail, columns, file in zip(
            self._tails, (self.steps, self.evaluations), (STEPS_FILE, EVAL_FILE), strict=True
        ):
            anew, records = tail.read(folder / file)
            if anew:
                columns.clear()
            for record in records:
                columns.add(record)
            self.version += bool(anew or records)

    def current_stage(self) -> str | None:
        """The name of the training that was looked at last."""
        return stage_name(self.folder) if self.folder else None

    def seconds_since_last_step(self) -> float:
        """Seconds since the last step was written."""
        try:
            return max(0.0, time.time() - (self.folder / STEPS_FILE).stat().st_mtime) if self.folder else 0.0
        except OSError:
            return 0.0

    def running_stage(self) -> str | None:
        """The stage that is being made, by its folder's name; None when none is."""
        growing = [path.stem for path in sorted(self.path.glob("*.partial")) if path.is_dir()]
        return growing[-1] if growing else None


def stage_name(folder: Path) -> str:
    """04-base.partial -> base."""
    return folder.name.removesuffix(".partial").split("-", 1)[-1]
