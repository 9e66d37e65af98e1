"""New records of a JSON-lines file that another process is writing."""

import json
import os
from pathlib import Path
from typing import Any

JsonRecord = dict[str, Any]


class JsonlTail:
    """Reads new complete lines; the last line may be incomplete."""

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
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and isinstance(value.get("step"), int) else None
