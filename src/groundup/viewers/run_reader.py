"""Training records of a run folder, read incrementally.

`steps.jsonl` has a record for each step, counted from 0; `eval.jsonl` one for each evaluation, with the number of
completed steps. In distributed training only rank 0 writes them.
"""

import math
import os
import time
from array import array
from bisect import bisect_left
from pathlib import Path
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.artifacts.jsonl_file import decode_line
from groundup.report.run_data import PLAN, RECIPE, read_json

JsonRecord = dict[str, Any]

STEPS_FILE, EVAL_FILE, LOCK_FILE = "steps.jsonl", "eval.jsonl", ".lock"
COLUMNS = (
    "step", "loss", "learning_rate", "tokens_per_second", "memory", "seconds", "reward", "kl", "answer_tokens",
)  # fmt: skip
EVAL_COLUMNS = ("step", "bits_per_byte", "loss", "accuracy", "margin", "reward")
TRAINED = {"train", "finetune", "preference", "reinforcement"}
"""Tables of a recipe that train."""
DEFAULT_STAGE = "base"
"""Default stage when no training is running."""


class JsonlTail:
    """New records of a JSON-lines file that another process is writing; its last line may be incomplete."""

    def __init__(self) -> None:
        self._file: tuple[int, int] | None = None
        self._read = 0

    def read(self, path: Path) -> tuple[bool, list[JsonRecord]]:
        """(whether the file was replaced, new records). A moved file continues; a replaced one is read from its start.

        Invalid lines, such as two lines merged by a crash, are skipped.
        """
        try:
            file = path.open("rb")
        except OSError:
            return False, []  # not yet created, or being renamed
        with file:
            stat = os.fstat(file.fileno())
            replaced = self._file != (stat.st_dev, stat.st_ino) or stat.st_size < self._read
            if replaced:
                self._file, self._read = (stat.st_dev, stat.st_ino), 0
            file.seek(self._read)
            data = file.read()
        complete = data[: data.rfind(b"\n") + 1]
        self._read += len(complete)
        return replaced, [record for line in complete.splitlines() if (record := _record(line)) is not None]


def _record(line: bytes) -> JsonRecord | None:
    try:
        record = decode_line(line)
    except ValueError:
        return None
    return record if isinstance(record.get("step"), int) else None


MAX_VALUE = 1e300
"""Larger integers of a damaged record do not fit into a float."""


class StepColumns:
    """Records as columns of numbers, NaN for missing values. Repeated steps replace earlier records."""

    def __init__(self, names: tuple[str, ...] = COLUMNS):
        self.names = names
        self.clear()

    def clear(self) -> None:
        self.columns = {name: array("d") for name in self.names}

    def add(self, record: JsonRecord) -> None:
        """Append a record, after removing all records from its step on (the run was resumed or rolled back)."""
        steps = self.columns["step"]
        if steps and record["step"] <= steps[-1]:
            index = bisect_left(steps, record["step"])
            for column in self.columns.values():
                del column[index:]
        for name, column in self.columns.items():
            value = record.get(name)
            is_number = isinstance(value, float) or (isinstance(value, int) and abs(value) < MAX_VALUE)
            valid = is_number and not (name == "loss" and "skipped" in record)
            column.append(value if valid else math.nan)  # pyright: ignore[reportArgumentType]


class RunReader:
    """Incremental reader of a run folder, or of one stage folder in it."""

    def __init__(self, path: Path, stage: str | None = None):
        """`stage`: name of the training stage; None: the running one, else the pretraining, else the last.

        Raises UserError for a folder that is neither a run nor a training stage.
        """
        if not path.is_dir():
            raise UserError(f"{path}: no such folder", hint="groundup run RECIPE creates one under runs/")
        self.path, self.requested_stage = path, stage
        self._is_stage_folder = (path / STEPS_FILE).is_file()
        is_run = (path / RECIPE).is_file() or (path / LOCK_FILE).is_file()
        if not self._is_stage_folder and not is_run:
            raise UserError(
                f"{path}: neither a run (no {RECIPE}) nor a training (no {STEPS_FILE})",
                hint="groundup run RECIPE creates one under runs/",
            )
        self.plan: dict[str, Any] = {}
        self.folder: Path | None = None
        self.steps, self.evaluations = StepColumns(), StepColumns(EVAL_COLUMNS)
        self._tails = JsonlTail(), JsonlTail()
        self.version = 0
        """Incremented whenever new records were read."""

    def trainings(self) -> dict[str, Path]:
        """Stage folders with step records, by stage name, in order; a running one replaces a finished one."""
        if self._is_stage_folder:
            return {stage_name(self.path): self.path}
        folders = [
            path for path in sorted(self.path.iterdir()) if path.suffix != ".old" and (path / STEPS_FILE).is_file()
        ]
        return {stage_name(path): path for path in folders}  # NAME.partial sorts behind NAME

    def refresh(self) -> None:
        """Read new records. Raises UserError when the folder was removed or the requested stage does not exist."""
        if not self.path.is_dir():
            raise UserError(f"{self.path}: the folder was removed", hint="groundup run RECIPE creates it again")
        if not self._is_stage_folder:
            self.plan = read_json(self.path / PLAN, {})
        trainings = self.trainings()
        if self.plan and not trainings and not TRAINED & {*self.plan, *_set_tables(self.path / RECIPE)}:
            raise UserError(f"{self.path}: the recipe trains nothing", hint=f"add one of {', '.join(sorted(TRAINED))}")
        if self.requested_stage is not None and self.requested_stage not in trainings and trainings:
            available = ", ".join(trainings)
            raise UserError(
                f"{self.path}: no training {self.requested_stage!r} yet", hint=f"trainings in this run: {available}"
            )
        running = [name for name, path in trainings.items() if path.suffix == ".partial"]
        default = DEFAULT_STAGE if DEFAULT_STAGE in trainings else next(reversed(trainings), "")
        folder = trainings.get(self.requested_stage or (running or [default])[-1])
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
            restarted, records = tail.read(folder / file)
            if restarted:
                columns.clear()
            for record in records:
                columns.add(record)
            self.version += bool(restarted or records)

    def current_stage(self) -> str | None:
        """Name of the current stage."""
        return stage_name(self.folder) if self.folder else None

    def seconds_since_last_step(self) -> float:
        """Seconds since the last step record."""
        try:
            return max(0.0, time.time() - (self.folder / STEPS_FILE).stat().st_mtime) if self.folder else 0.0
        except OSError:
            return 0.0

    def running_stage(self) -> str | None:
        """Folder name of the running stage, if any."""
        running = [path.stem for path in sorted(self.path.glob("*.partial")) if path.is_dir()]
        return running[-1] if running else None


def stage_name(folder: Path) -> str:
    """04-base.partial -> base."""
    return folder.name.removesuffix(".partial").split("-", 1)[-1]


def _set_tables(recipe: Path) -> set[str]:
    return {name for name, table in read_json(recipe, {}).items() if table is not None}
