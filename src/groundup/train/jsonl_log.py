"""JSONL files of records, one line a step, appended as they happen."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from groundup.artifacts.directory import write_atomically
from groundup.artifacts.jsonl_file import encode_line, read_jsonl

Record = dict[str, Any]


class JsonlLog:
    """An append-only file of records with a `step` each; without a path only a list in memory.

    A damaged line of an existing file is skipped, and `on_damage` called with a line that names it.
    """

    def __init__(self, path: Path | None, on_damage: Callable[[str], None] = lambda line: None):
        self.path = path
        self.records: list[Record] = list(read_jsonl(path, checksum=True, on_damage=on_damage)) if path else []

    def truncate(self, step: int) -> None:
        """Keep only records of steps before `step`, also in the file."""
        self.records = [record for record in self.records if record["step"] < step]
        if self.path and self.path.exists():
            lines = "".join(encode_line(record) for record in self.records)
            write_atomically(self.path, lines.encode())

    def append(self, record: Record) -> None:
        """Append a record and flush it. Values that are not finite become null."""
        record = {key: None if _is_non_finite(value) else value for key, value in record.items()}
        self.records.append(record)
        if self.path:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(encode_line(record))

    def sync(self) -> None:
        """Flush to disk (fsync)."""
        if self.path and self.path.exists():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())


def _is_non_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
