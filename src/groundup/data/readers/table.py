"""Table reader: a text column of Parquet, Arrow, CSV, TSV and XLSX files; JSON as well."""

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import IO, Any

from groundup.data.archive import is_seekable, open_decompressed
from groundup.data.document import DroppedDocument, ReadResult
from groundup.data.readers import jsonl
from groundup.data.readers.reader_options import MAX_BYTES, ReaderOptions, read_bounded
from groundup.data.readers.records import (
    CONVERSATIONS,
    ID_KEYS,
    MESSAGES,
    MISSING_COLUMN,
    missing_column,
    record_document,
)
from groundup.data.readers.spreadsheet import SHEET_ERRORS, iter_sheet_rows
from groundup.data.readers.text_lines import TextLines

BATCH_ROWS = 256
DELIMITERS = ",;\t|"
SAMPLE_ROWS, SAMPLE_CHARACTERS = 50, 1 << 16
JSON_SUFFIXES = ("jsonl", "json", "ndjson", "jsonlines")
ARROW_SUFFIXES = ("parquet", "arrow", "feather")


def read(name: str, stream: IO[bytes], options: ReaderOptions) -> Iterator[ReadResult]:
    """One document per row. Rows without text are dropped as "no_text"; files with other suffixes are skipped.

    A table without the column of the text is one dropped document, "missing_column", with the columns that there are.
    """
    plain, opened = open_decompressed(name, stream)
    suffix = plain.rpartition(".")[2].lower()
    if suffix in JSON_SUFFIXES:
        yield from jsonl.read(name, stream, options)
    elif suffix in ("csv", "tsv"):
        yield from _csv(plain, opened, options)
    elif suffix in ("xlsx", "xlsm"):
        yield from _sheets(plain, opened, options)
    elif suffix in ARROW_SUFFIXES:
        yield from _arrow(plain, opened, options, suffix)


def is_arrow(name: str) -> bool:
    """Whether a file is named as a Parquet or Arrow file."""
    return name.rpartition(".")[2].lower() in ARROW_SUFFIXES


def _csv(name: str, stream: IO[bytes], options: ReaderOptions) -> Iterator[ReadResult]:
    csv.field_size_limit(MAX_BYTES)
    lines = BoundedLines(stream)
    default = "\t" if name.lower().endswith(".tsv") else ","
    rows = csv.DictReader(lines, delimiter=find_delimiter(lines.text.head, options.text_column, default))
    try:
        names = [column for column in rows.fieldnames or [] if column is not None]
        if options.text_column not in (*names, MESSAGES) and not options.by_content:
            yield missing_column(names, name, options)
            return
        for number, row in enumerate(rows, start=1):
            lines.size = 0
            found = record_document({key: row[key] for key in names}, f"{name}:{number}", options)
            is_plain = isinstance(found, DroppedDocument) or lines.text.charset is None
            yield found if is_plain else replace(found, encoding=lines.text.encoding)
    except csv.Error as error:
        yield DroppedDocument("broken_table", name, str(error))


def find_delimiter(head: str, text_column: str, default: str = ",") -> str:
    """The delimiter that names the column of the text, else the one that gives the most rows of equal length.

    >>> find_delimiter("id;text\\n1;One, two, three\\n", "text")
    ';'
    """
    counts: dict[str, tuple[bool, float, int]] = {}
    for delimiter in DELIMITERS:
        try:
            rows = list(islice(csv.reader(head.splitlines(keepends=True), delimiter=delimiter), SAMPLE_ROWS))
        except csv.Error:
            continue
        rows = [row for row in rows if row][: -1 if len(rows) > 2 else None]  # the last may be cut
        width = len(rows[0]) if rows else 1
        equal = sum(len(row) == width for row in rows) / max(len(rows), 1)
        counts[delimiter] = (width > 1 and text_column in rows[0], equal if width > 1 else 0.0, width)
    best = max(counts, key=counts.__getitem__, default=default)
    return (
        best
        if counts.get(best, (False, 0.0, 1))[1] > counts.get(default, (False, 0.0, 1))[1] or counts[best][0]
        else default
    )


class BoundedLines:
    """Lines without NULs. Limits the bytes of a row; `size` must be reset after each."""

    def __init__(self, stream: IO[bytes]):
        self.text, self.size = TextLines(stream, MAX_BYTES), 0

    def __iter__(self) -> "BoundedLines":
        return self

    def __next__(self) -> str:
        line = self.text.readline()
        if line == "":
            raise StopIteration
        self.size += MAX_BYTES + 1 if line is None else len(line)
        if line is None or self.size > MAX_BYTES:
            raise csv.Error(f"a row larger than {MAX_BYTES} bytes")
        return line.replace("\0", "")


def _sheets(name: str, stream: IO[bytes], options: ReaderOptions) -> Iterator[ReadResult]:
    data = read_bounded(stream, MAX_BYTES)
    if data is None:
        yield DroppedDocument("too_large", name)
        return
    without: set[str] = set()
    try:
        for position, row in iter_sheet_rows(data):
            found = record_document(row, f"{name}:{position}", options)
            sheet = position.rpartition(":")[0]
            if isinstance(found, DroppedDocument) and found.reason == MISSING_COLUMN:
                if sheet in without:
                    continue
                without.add(sheet)
            yield found
    except SHEET_ERRORS as error:
        yield DroppedDocument("broken_table", name, f"{type(error).__name__}: {error}")


def _arrow(name: str, stream: IO[bytes], options: ReaderOptions, suffix: str) -> Iterator[ReadResult]:
    import pyarrow
    import pyarrow.parquet

    if not is_seekable(stream):
        data = read_bounded(stream, MAX_BYTES)
        if data is None:
            yield DroppedDocument("too_large", name)
            return
        stream = io.BytesIO(data)
    number = 0
    try:
        if suffix == "parquet":
            file = pyarrow.parquet.ParquetFile(stream)
            names = file.schema_arrow.names
            if options.by_content and _has_conversations(file.schema_arrow, options):
                yield DroppedDocument(CONVERSATIONS, name)
                return
            column = options.text_column if options.text_column in names else options.text_column.partition(".")[0]
            columns = {column, *ID_KEYS} & set(names)
            if column not in names and not options.by_content:
                yield missing_column(names, name, options)
                return
            if column not in names:
                columns = set(names)
            batches = file.iter_batches(batch_size=BATCH_ROWS, columns=sorted(columns))
        else:
            batches = arrow_batches(stream)
        for batch in batches:
            batch.validate(full=True)  # a damaged file must not cause reads out of bounds
            if options.by_content and _has_conversations(batch.schema, options):
                yield DroppedDocument(CONVERSATIONS, name)
                return
            for row in batch.to_pylist():
                number += 1
                yield record_document(row, f"{name}:{number}", options)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        yield DroppedDocument("broken_table", name, str(error))


def _has_conversations(schema: Any, options: ReaderOptions) -> bool:
    """A list of messages, and no column of the text."""
    from pyarrow import types

    if options.text_column in schema.names or MESSAGES not in schema.names:
        return False
    kind = schema.field(MESSAGES).type
    is_list = types.is_list(kind) or types.is_large_list(kind)
    return is_list and types.is_struct(kind.value_type) and kind.value_type.get_field_index("content") >= 0


def arrow_batches(source: IO[bytes]):
    """Batches of an Arrow file or stream (Hugging Face caches are streams)."""
    import pyarrow

    try:
        with pyarrow.ipc.open_file(source) as file:
            yield from (file.get_batch(index) for index in range(file.num_record_batches))
    except pyarrow.ArrowInvalid:
        source.seek(0)
        with pyarrow.ipc.open_stream(source) as batches:
            yield from batches
