"""JSON lines: one object a line, its text under "text"."""

import json
from collections.abc import Iterator
from typing import IO

from groundup.data.archive import decompressed
from groundup.data.document import Document, Dropped, Read
from groundup.data.readers.text import MAX_BYTES

TEXT_KEYS = ("text", "content", "body")
ID_KEYS = ("id", "url", "title", "path")


def read(name: str, stream: IO[bytes]) -> Iterator[Read]:
    """A document for each line; lines that are no object with a text are dropped as "broken_line"."""
    name, stream = decompressed(name, stream)
    number = 0
    while line := stream.readline(MAX_BYTES + 1):
        number += 1
        where = f"{name}:{number}"
        if len(line) > MAX_BYTES:
            while line and not line.endswith(b"\n"):
                line = stream.readline(MAX_BYTES)
            yield Dropped("too_large", where)
            continue
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode("utf-8", "replace"))
            text = next(record[key] for key in TEXT_KEYS if isinstance(record.get(key), str))
        except (ValueError, AttributeError, StopIteration, RecursionError):
            yield Dropped("broken_line", where, line[:2000].decode("utf-8", "replace"))
            continue
        found = next((record[key] for key in ID_KEYS if isinstance(record.get(key), str | int)), None)
        yield Document(text, where if found is None else str(found))
