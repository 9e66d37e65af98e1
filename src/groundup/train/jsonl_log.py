"""What happened, one JSON line a step, written as it happens: the truth that every picture is drawn from."""

import json
import math
import os
from pathlib import Path
from typing import Any

from groundup.artifacts.directory import write_atomically

Record = dict[str, Any]


class JsonlLog:
    """An append-only file of records, each with its `step`; without a path, only the list.

    A run that continues from an earlier step forgets what it had written beyond that.
    """

    def __init__(self, path: Path | None):
        self.path = path
        self.records: list[Record] = _read(path) if path else []

    def truncate(self, step: int) -> None:
        """Keep the records of the steps before `step`, in the file too."""
        self.records = [record for record in self.records if record["step"] < step]
        if self.path and self.path.exists():
            lines = "".join(json.dumps(record) + "\n" for record in self.records)
            write_atomically(self.path, lines.encode())

    def append(self, record: Record) -> None:
        """Write one record; whoever reads the file sees it at once. JSON has no word for what is not finite."""
        record = {key: None if _is_non_finite(value) else value for key, value in record.items()}
        self.records.append(record)
        if self.path:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def sync(self) -> None:
        """Return when the records are safe from a power cut."""
        if self.path and self.path.exists():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())


def _read(path: Path) -> list[Record]:
    """The records in the file as far as they are whole: a kill may have cut off the last."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def _is_non_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
