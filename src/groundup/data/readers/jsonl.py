"""JSON reader: one object per line, an array of objects, or one object; the text is in one field."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import IO, Any

from groundup.data.archive import open_decompressed
from groundup.data.document import DroppedDocument, ReadResult
from groundup.data.readers.reader_options import MAX_BYTES, ReaderOptions
from groundup.data.readers.records import has_column, record_document
from groundup.data.readers.text_lines import TextLines

MAX_SKIPPED_BYTES = 16 * MAX_BYTES
"""Limit for skipping the rest of a line that is too long."""

READ_CHARACTERS = 1 << 16
DECODER = json.JSONDecoder()
MIN_AHEAD = 64
"""Characters behind a fault of JSON: with fewer, the rest of the value may not be read yet."""
BETWEEN = frozenset(" \t\r\n[],")
SEVERAL_LINES = re.compile(r"\s*(?:\[|\{\s*\n|\{[^\n]*[\[{,]\s*\n)")
"""Start of an array, or of an object that goes on in the next line."""
NEXT_OBJECT = re.compile(r"\}\s*,?\s*(?=\{)")
Records = Iterator[tuple[str, Any]]
"""Position and value, or what was dropped there."""


def read(name: str, stream: IO[bytes], options: ReaderOptions) -> Iterator[ReadResult]:
    """One document per record; what is no record is dropped as "broken_line"."""
    name, stream = open_decompressed(name, stream)
    lines = TextLines(stream, MAX_BYTES)
    for position, record in _records(name, lines, options):
        if isinstance(record, DroppedDocument):
            yield record
            continue
        found = record_document(record, position, options)
        is_plain = isinstance(found, DroppedDocument) or lines.charset is None
        yield found if is_plain else replace(found, encoding=lines.encoding)


def _records(name: str, lines: TextLines, options: ReaderOptions) -> Records:
    if SEVERAL_LINES.match(lines.head):
        return _expand(json_values(name, lines), options)
    return _lines(name, lines)


def _lines(name: str, lines: TextLines) -> Records:
    number = 0
    while (line := lines.readline()) != "":
        number += 1
        position = f"{name}:{number}"
        if line is None:
            yield position, DroppedDocument("too_large", position)
            if not lines.skip_line(MAX_SKIPPED_BYTES):
                return
        elif line.strip():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            yield position, record if isinstance(record, dict) else _broken(position, line)


def json_values(name: str, lines: TextLines) -> Records:
    """The elements of an array, or objects behind one another; memory is that of one of them."""
    chunks = lines.chunks()
    buffer, at, number, is_last, needed = "", 0, 0, False, READ_CHARACTERS
    while True:
        while len(buffer) - at < needed and not is_last:
            chunk = next(chunks, None)
            is_last = chunk is None
            buffer, at = buffer[at:] + (chunk or ""), 0
        while at < len(buffer) and buffer[at] in BETWEEN:
            at += 1
        if at == len(buffer):
            if is_last:
                return
            continue
        position = f"{name}:{number + 1}"
        try:
            value, end = DECODER.raw_decode(buffer, at)
        except RecursionError:
            yield position, _broken(position, buffer[at : at + 2000])
            return
        except json.JSONDecodeError as error:
            is_cut = not is_last and (error.msg.startswith("Unterminated") or error.pos > len(buffer) - MIN_AHEAD)
            if is_cut and len(buffer) - at < MAX_BYTES:
                needed = 2 * max(len(buffer) - at, READ_CHARACTERS)
                continue
            number += 1
            yield position, DroppedDocument("too_large", position) if is_cut else _broken(position, buffer[at:])
            following = NEXT_OBJECT.search(buffer, error.pos)
            if is_cut or following is None:
                return
            at, needed = following.end(), READ_CHARACTERS
            continue
        if end == len(buffer) and not is_last and not isinstance(value, dict | list | str):  # a number may go on
            needed = len(buffer) - at + READ_CHARACTERS
            continue
        at, needed = end, READ_CHARACTERS
        number += 1
        yield position, value


def _expand(records: Records, options: ReaderOptions) -> Records:
    """Elements; of an object without the text, which holds a list of objects, these."""
    for position, value in records:
        if isinstance(value, str):
            yield position, {options.text_column: value}
        elif isinstance(value, dict):
            lists = (
                inner for inner in value.values() if isinstance(inner, list) and inner and isinstance(inner[0], dict)
            )
            inner = None if has_column(value, options.text_column) else next(lists, None)
            if inner is None:
                yield position, value
                continue
            records_within = enumerate((record for record in inner if isinstance(record, dict)), start=1)
            yield from ((f"{position}.{index}", record) for index, record in records_within)
        else:
            yield position, value if isinstance(value, DroppedDocument) else _broken(position, str(value))


def _broken(position: str, text: str) -> DroppedDocument:
    return DroppedDocument("broken_line", position, text[:2000])
