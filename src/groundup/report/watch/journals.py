"""Which trainings a run holds, and what one of them has done so far.

`steps.jsonl` has a record for each step, numbered from 0; `probes.jsonl` one for each look at held-out text, numbered by
the steps done. Where several ranks train, the first writes for all.
"""

import math
import time
from array import array
from bisect import bisect_left
from pathlib import Path
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.report.collect import PLAN, RECIPE, read_json
from groundup.report.watch.tail import Record, Tail

STEPS, PROBES, LOCK = "steps.jsonl", "probes.jsonl", ".lock"
COLUMNS = ("step", "loss", "learning_rate", "tokens_per_second", "memory", "seconds")
PROBED = ("step", "bits_per_byte", "loss")
FIRST = "base"
"""The training that is shown when none is going on."""


class Columns:
    """Records as columns of numbers; NaN where a record says nothing. Of a step that repeats, the later one counts."""

    def __init__(self, names: tuple[str, ...] = COLUMNS):
        self.names = names
        self.clear()

    def clear(self) -> None:
        self.of = {name: array("d") for name in self.names}

    def add(self, record: Record) -> None:
        """The next record: all from its step on are forgotten first, for the run went back there."""
        steps = self.of["step"]
        if steps and record["step"] <= steps[-1]:
            place = bisect_left(steps, record["step"])
            for column in self.of.values():
                del column[place:]
        for name, column in self.of.items():
            value = record.get(name)
            seen = isinstance(value, int | float) and not (name == "loss" and "left_out" in record)
            column.append(value if seen else math.nan)  # pyright: ignore[reportArgumentType]


class Journals:
    """A run folder, or one training's folder in it, looked at again and again."""

    def __init__(self, path: Path, stage: str | None = None):
        """`stage`: the training to look at, by name; None: the one that is going on, else the pretraining.

        Raises UserError when there is nothing that could ever be looked at.
        """
        if not path.is_dir():
            raise UserError(f"{path}: no such folder", hint="groundup run RECIPE makes one, under runs/")
        self.path, self.wanted = path, stage
        self._alone = (path / STEPS).is_file()
        begun = (path / RECIPE).is_file() or (path / LOCK).is_file()
        if not self._alone and not begun:
            raise UserError(
                f"{path}: neither a run (no {RECIPE}) nor a training (no {STEPS})",
                hint="groundup run RECIPE makes one, under runs/",
            )
        self.plan: dict[str, Any] = {}
        self.folder: Path | None = None
        self.steps, self.probes = Columns(), Columns(PROBED)
        self._tails = Tail(), Tail()
        self.changes = 0
        """Grows whenever there is something new to see."""

    def trainings(self) -> dict[str, Path]:
        """The folders that have a journal, by the name of their stage, in order; the one that grows before a finished one."""
        if self._alone:
            return {stage_name(self.path): self.path}
        folders = [
            path for path in sorted(self.path.iterdir()) if path.suffix != ".old" and (path / STEPS).is_file()
        ]
        return {stage_name(path): path for path in folders}  # NAME.partial sorts behind NAME

    def look(self) -> None:
        """Read what is new. Raises UserError when the folder is gone, or holds other trainings than the wanted one."""
        if not self.path.is_dir():
            raise UserError(f"{self.path}: the folder is gone", hint="groundup run RECIPE makes it again")
        if not self._alone:
            self.plan = read_json(self.path / PLAN, {})
            if self.plan and "train" not in self.plan:
                raise UserError(f"{self.path}: its recipe trains no model", hint="add [train] to it")
        found = self.trainings()
        if self.wanted is not None and self.wanted not in found and found:
            going = ", ".join(found)
            raise UserError(f"{self.path}: no training {self.wanted!r} yet", hint=f"there is {going}")
        growing = [name for name, path in found.items() if path.suffix == ".partial"]
        name = self.wanted or (growing or [FIRST if FIRST in found else next(iter(found), "")])[-1]
        folder = found.get(name)
        if folder != self.folder:
            if folder is None or self.folder is None or stage_name(folder) != stage_name(self.folder):
                self.steps, self.probes = Columns(), Columns(PROBED)
                self._tails = Tail(), Tail()
            self.folder = folder
            self.changes += 1
        if folder is None:
            return
        for tail, columns, file in zip(self._tails, (self.steps, self.probes), (STEPS, PROBES), strict=True):
            anew, records = tail.read(folder / file)
            if anew:
                columns.clear()
            for record in records:
                columns.add(record)
            self.changes += bool(anew or records)

    def shown(self) -> str | None:
        """The name of the training that was looked at last."""
        return stage_name(self.folder) if self.folder else None

    def age(self) -> float:
        """Seconds since the last step was written."""
        try:
            return max(0.0, time.time() - (self.folder / STEPS).stat().st_mtime) if self.folder else 0.0
        except OSError:
            return 0.0

    def under_way(self) -> str | None:
        """The stage that is being made, by its folder's name; None when none is."""
        growing = [path.stem for path in sorted(self.path.glob("*.partial")) if path.is_dir()]
        return growing[-1] if growing else None


def stage_name(folder: Path) -> str:
    """04-base.partial -> base."""
    return folder.name.removesuffix(".partial").split("-", 1)[-1]
