"""Table reader: a text column of Parquet, Arrow, CSV and TSV files; JSON lines as well."""

import csv
import io
from collections.abc import Iterator
from typing import IO

from groundup.data.archive import is_seekable, open_decompressed
from groundup.data.document import Document, DroppedDocument, ReadResult
from groundup.data.readers import jsonl
from groundup.data.readers.reader_options import MAX_BYTES, ReaderOptions, read_bounded

BATCH_ROWS = 256


def read(name: str, stream: IO[bytes], options: ReaderOptions) -> Iterator[ReadResult]:
    """One document per row. Rows without text are dropped as "no_text"; files with other suffixes are skipped."""
    plain, opened = open_decompressed(name, stream)
    suffix = plain.rpartition(".")[2].lower()
    if suffix in ("jsonl", "json", "ndjson"):
        yield from jsonl.read(name, stream, options)
    elif suffix in ("csv", "tsv"):
        yield from _csv(plain, opened, options, "\t" if suffix == "tsv" else ",")
    elif suffix in ("parquet", "arrow", "feather"):
        yield from _arrow(plain, opened, options, suffix)


def _csv(name: str, stream: IO[bytes], options: ReaderOptions, delimiter: str) -> Iterator[ReadResult]:
    csv.field_size_limit(MAX_BYTES)
    lines = BoundedLines(stream)
    rows = csv.DictReader(lines, delimiter=delimiter)
    try:
        for number, row in enumerate(rows, start=1):
            lines.size = 0
            yield _row_document(row, f"{name}:{number}", options)
    except csv.Error as error:
        yield DroppedDocument("broken_table", name, str(error))


class BoundedLines:
    """Lines of a UTF-8 file without NULs. Limits the bytes of a row; `size` must be reset after each."""

    def __init__(self, stream: IO[bytes]):
        self.stream, self.size, self.is_first = stream, 0, True

    def __iter__(self) -> "BoundedLines":
        return self

    def __next__(self) -> str:
        line = self.stream.readline(MAX_BYTES + 1)
        if not line:
            raise StopIteration
        self.size += len(line)
        if self.size > MAX_BYTES:
            raise csv.Error(f"a row larger than {MAX_BYTES} bytes")
        encoding = "utf-8-sig" if self.is_first else "utf-8"
        self.is_first = False
        return line.decode(encoding, "replace").replace("\0", "")


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
            names = set(file.schema_arrow.names)
            columns = {options.text_column, *jsonl.ID_KEYS} & names
            if options.by_content and options.text_column not in names:
                columns = names
            batches = file.iter_batches(batch_size=BATCH_ROWS, columns=sorted(columns))
        else:
            batches = _arrow_batches(stream)
        for batch in batches:
            batch.validate(full=True)  # a damaged file must not cause reads out of bounds
            for row in batch.to_pylist():
                number += 1
                yield _row_document(row, f"{name}:{number}", options)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        yield DroppedDocument("broken_table", name, str(error))


def _arrow_batches(source: IO[bytes]):
    """Batches of an Arrow file or stream (Hugging Face caches are streams)."""
    import pyarrow

    try:
        with pyarrow.ipc.open_file(source) as file:
            yield from (file.get_batch(index) for index in range(file.num_record_batches))
    except pyarrow.ArrowInvalid:
        source.seek(0)
        with pyarrow.ipc.open_stream(source) as batches:
            yield from batches


def _row_document(row: dict, position: str, options: ReaderOptions) -> ReadResult:  # type: ignore[type-arg]
    if text := jsonl.record_text(row, options):
        return Document(text, jsonl.record_id(row, position))
    return DroppedDocument("no_text", position)
