"""JSON lines reader: one object per line, with the text in one field."""

import json
from collections.abc import Iterator
from typing import IO

from groundup.data.archive import open_decompressed
from groundup.data.document import Document, DroppedDocument, ReadResult
from groundup.data.readers.reader_options import MAX_BYTES, ReaderOptions

MAX_SKIPPED_BYTES = 16 * MAX_BYTES
"""Limit for skipping the rest of a line that is too long."""

ID_KEYS = ("id", "url", "title", "path")
TEXT_KEYS = ("text", "content", "body", "article", "document", "story", "raw_content", "code")


def read(name: str, stream: IO[bytes], options: ReaderOptions) -> Iterator[ReadResult]:
    """One document per line; other lines than objects with that field are dropped as "broken_line"."""
    name, stream = open_decompressed(name, stream)
    number = 0
    while line := stream.readline(MAX_BYTES + 1):
        number += 1
        position = f"{name}:{number}"
        if len(line) > MAX_BYTES:
            yield DroppedDocument("too_large", position)
            if not _skip_line(stream):
                return
        elif line.strip():
            yield _document(line, position, options)


def _skip_line(stream: IO[bytes]) -> bool:
    """Read to the end of a line; false if it exceeds the limit (a decompression bomb)."""
    for _ in range(MAX_SKIPPED_BYTES >> 20):
        part = stream.readline(1 << 20)
        if not part or part.endswith(b"\n"):
            return True
    return False


def _document(line: bytes, position: str, options: ReaderOptions) -> ReadResult:
    try:
        record = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or (text := record_text(record, options)) is None:
        return DroppedDocument("broken_line", position, line[:2000].decode("utf-8", "replace"))
    return Document(text, record_id(record, position))


def record_text(record: dict, options: ReaderOptions) -> str | None:  # type: ignore[type-arg]
    """Text of a record: its text column, of a list of messages their contents; chosen by content also another usual name,
    else the longest text.
    """
    text = record.get(options.text_column)
    if isinstance(text, list):
        turns = [turn.get("content") for turn in text if isinstance(turn, dict)]
        text = "\n\n".join(turn for turn in turns if isinstance(turn, str)) or None
    if isinstance(text, str) or not options.by_content:
        return text if isinstance(text, str) else None
    named = (record[key] for key in TEXT_KEYS if isinstance(record.get(key), str))
    texts = (value for value in record.values() if isinstance(value, str))
    return next(named, None) or max(texts, key=len, default=None)


def record_id(record: dict, default: str) -> str:  # type: ignore[type-arg]
    """Id, URL, title or path of a record, else `default`."""
    return next((str(record[key]) for key in ID_KEYS if isinstance(record.get(key), str | int)), default)
