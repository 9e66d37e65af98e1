"""JSON lines: one object a line, its text in one of its fields."""

import json
from collections.abc import Iterator
from typing import IO

from groundup.data.archive import open_decompressed
from groundup.data.document import Document, DroppedDocument, ReadResult
from groundup.data.readers.reader_options import MAX_BYTES, ReaderOptions

MAX_SKIPPED_BYTES = 16 * MAX_BYTES
"""Bytes of a line that are read to get past it."""

ID_KEYS = ("id", "url", "title", "path")


def read(name: str, stream: IO[bytes], options: ReaderOptions) -> Iterator[ReadResult]:
    """A document for each line; lines that are no object with that field are dropped as "broken_line"."""
    name, stream = open_decompressed(name, stream)
    number = 0
    while line := stream.readline(MAX_BYTES + 1):
        number += 1
        where = f"{name}:{number}"
        if len(line) > MAX_BYTES:
            yield DroppedDocument("too_large", where)
            if not _skip_line(stream):
                return
        elif line.strip():
            yield _document(line, where, options.text_column)


def _skip_line(stream: IO[bytes]) -> bool:
    """Read to the end of a line; false when there is none within bounds (a decompression bomb has none)."""
    for _ in range(MAX_SKIPPED_BYTES >> 20):
        part = stream.readline(1 << 20)
        if not part or part.endswith(b"\n"):
            return True
    return False


def _document(line: bytes, where: str, column: str) -> ReadResult:
    try:
        record = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or not isinstance(text := record.get(column), str):
        return DroppedDocument("broken_line", where, line[:2000].decode("utf-8", "replace"))
    return Document(text, record_id(record, where))


def record_id(record: dict, where: str) -> str:  # type: ignore[type-arg]
    """What the record calls itself, else where it stands."""
    return next((str(record[key]) for key in ID_KEYS if isinstance(record.get(key), str | int)), where)
