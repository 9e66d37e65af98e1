"""JSONL files of records, one line a step, appended as they happen."""

import json
import math
import os
from pathlib import Path
from typing import Any

from groundup.artifacts.directory import write_atomically

Record = dict[str, Any]


class JsonlLog:
    """An append-only file of records with a `step` each; without a path only a list in memory."""

    def __init__(self, path: Path | None):
        self.path = path
        self.records: list[Record] = _read(path) if path else []

    def truncate(self, step: int) -> None:
        """Keep only records of steps before `step`, also in the file."""
        self.records = [record for record in self.records if record["step"] < step]
        if self.path and self.path.exists():
            lines = "".join(json.dumps(record) + "\n" for record in self.records)
            write_atomically(self.path, lines.encode())

    def append(self, record: Record) -> None:
        """Append a record and flush it. Values that are not finite become null."""
        record = {key: None if _is_non_finite(value) else value for key, value in record.items()}
        self.records.append(record)
        if self.path:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def sync(self) -> None:
        """Flush to disk (fsync)."""
        if self.path and self.path.exists():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())


def _read(path: Path) -> list[Record]:
    """The complete records of a file; the last line may be cut off by a kill."""
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
