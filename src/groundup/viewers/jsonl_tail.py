"""A file of JSON lines that somebody else is writing, read as it grows."""

import json
import os
from pathlib import Path
from typing import Any

JsonRecord = dict[str, Any]


class JsonlTail:
    """Reads what is new. A line counts when its end is there: the last one may be half written."""

    def __init__(self) -> None:
        self._file: tuple[int, int] | None = None
        self._read = 0

    def read(self, path: Path) -> tuple[bool, list[JsonRecord]]:
        """(whether the file began anew, the records since). A file that moved goes on; one that was replaced begins anew.

        What is no record, such as two lines that a crash ran together, is passed over.
        """
        try:
            file = path.open("rb")
        except OSError:
            return False, []  # not there yet, or about to get its final name
        with file:
            found = os.fstat(file.fileno())
            anew = self._file != (found.st_dev, found.st_ino) or found.st_size < self._read
            if anew:
                self._file, self._read = (found.st_dev, found.st_ino), 0
            file.seek(self._read)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        return anew, [record for line in whole.splitlines() if (record := _record(line)) is not None]


def _record(line: bytes) -> JsonRecord | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and isinstance(value.get("step"), int) else None
