"""Records of files with their lines: JSON lines, JSON arrays, CSV, TSV, XLSX, Parquet and Arrow, also compressed.

Nothing is left out in silence: what cannot be read is a record with a fault. Memory is that of a few records.
"""

import csv
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import IO, Any

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.data.archive import DECOMPRESSORS, is_seekable, open_decompressed, rejoin
from groundup.data.chat_message import is_turn
from groundup.data.document import DroppedDocument
from groundup.data.inputs import FileSpec, resolve_files
from groundup.data.readers.huggingface import EVALUATION_SPLIT
from groundup.data.readers.jsonl import MAX_SKIPPED_BYTES, SEVERAL_LINES, json_values
from groundup.data.readers.reader_options import MAX_BYTES
from groundup.data.readers.spreadsheet import SHEET_ERRORS, iter_sheet_rows
from groundup.data.readers.table import (
    ARROW_SUFFIXES,
    JSON_SUFFIXES,
    SAMPLE_CHARACTERS,
    BoundedLines,
    arrow_batches,
    find_delimiter,
)
from groundup.data.readers.text_lines import TextLines

BATCH_ROWS = 256
FORMATS = "JSON lines, a JSON array, CSV, TSV, XLSX, Parquet or Arrow, also as .gz, .bz2, .xz or .zst"
HOUSEKEEPING = re.compile(
    r"(?:^|/)(?:dataset_infos?\.json|state\.json|dataset_dict\.json|cache-[^/]*\.arrow|indices[^/]*\.arrow)$"
)
"""Files of a folder of `datasets` beside the records."""
LIST_OF_LISTS = re.compile(r"\s*\[\s*\[")
HEAD_BYTES = 1 << 16
RECORD_SUFFIXES = (*JSON_SUFFIXES, *ARROW_SUFFIXES, "csv", "tsv", "xlsx", "xlsm")
SHOWN_CHARACTERS = 200

OpenableFile = tuple[str, Callable[[], IO[bytes]]]
"""Name, and what opens it."""

FAULTS = {
    "broken_line": "not valid JSON",
    "broken_row": "row with more or fewer cells than the header",
    "too_large": f"longer than {MAX_BYTES:,} bytes",
    "not_utf8": "bytes that are not UTF-8",
    "lone_surrogate": "half of a surrogate pair (\\ud800 to \\udfff), which is no text",
}


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A record of a file.

    Attributes:
        line: line of the file, in which the record begins; of an array or a table, the number of the record.
        fault: one of FAULTS, for what cannot be read; `value` is then the beginning of it.
    """

    value: Any
    file: str
    line: int
    fault: str | None = None


def source_records(source: FileSpec, machine: Machine) -> Iterator[FileRecord]:
    """The records of all files of a source, in the order of their names.

    Of several files, those that hold no records are left out, and validation and test splits if there is another one
    (folders of `datasets` and of the Hub); the log says which. Raises UserError for a damaged file, and for one in another
    format.
    """
    return records_of_files(source.name, source_files(source, machine), machine)


def records_of_files(source: str, files: Sequence[OpenableFile], machine: Machine) -> Iterator[FileRecord]:
    """As `source_records`, of files that are known."""
    left_out = _left_out([name for name, _ in files])
    if left_out:
        shown = ", ".join(sorted(left_out)[:3]) + (" ..." if len(left_out) > 3 else "")
        machine.progress.log(f"{source}: left out {len(left_out)} of {len(files)} files: {shown}")
    for name, open_file in files:
        if name not in left_out:
            with open_file() as stream:
                yield from file_records(name, stream)


def source_files(source: FileSpec, machine: Machine) -> list[OpenableFile]:
    """Name and opener of the files of a source and the members of its archives, sorted in each archive."""
    files: list[OpenableFile] = []
    for file in resolve_files(source, machine):
        if file.is_archive:
            contents = sorted((member.name, member.stream.read()) for member in file.iter_members())
            files += [(name, partial(io.BytesIO, content)) for name, content in contents]
        else:
            files.append((file.name, partial(file.path.open, "rb")))
    return files


def _left_out(names: Sequence[str]) -> set[str]:
    if len(names) == 1:
        return set()
    others = {name for name in names if HOUSEKEEPING.search(name) or not _has_record_suffix(name)}
    if len(others) == len(names):
        return {name for name in names if HOUSEKEEPING.search(name)}
    splits = {name for name in names if name not in others and EVALUATION_SPLIT.search(name)}
    return others | (splits if len(others) + len(splits) < len(names) else set())


def _has_record_suffix(name: str) -> bool:
    path = PurePosixPath(name.lower())
    suffix = PurePosixPath(path.stem).suffix if path.suffix[1:] in DECOMPRESSORS else path.suffix
    return suffix[1:] in RECORD_SUFFIXES


def file_records(name: str, stream: IO[bytes]) -> Iterator[FileRecord]:
    """The records of one file, by its suffix or its first bytes.

    Raises UserError for a damaged file, and for one in another format.
    """
    try:
        plain, opened = open_decompressed(name, stream)
        yield from _records(name, plain, opened)
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{name}: damaged file: {error}", hint="fetch or write it again") from None


def _records(name: str, plain: str, stream: IO[bytes]) -> Iterator[FileRecord]:
    suffix = PurePosixPath(plain.lower()).suffix[1:]
    if suffix in ("csv", "tsv"):
        return _csv_records(name, plain, stream)
    if suffix in ("xlsx", "xlsm"):
        return _sheet_records(name, stream)
    head = stream.read(HEAD_BYTES)
    stream = rejoin(head, stream)
    if suffix in ARROW_SUFFIXES or head.startswith((b"PAR1", b"ARROW1")):
        return _arrow_records(name, stream, head.startswith(b"PAR1"))
    lines = TextLines(stream, MAX_BYTES)
    if suffix not in JSON_SUFFIXES and not lines.head.lstrip().startswith(("{", "[")):
        raise UserError(f"{name}: no known format of records", hint=f"expected {FORMATS}")
    return _json_values(name, lines) if _is_one_value(lines.head) else _json_lines(name, lines)


def _is_one_value(head: str) -> bool:
    """Whether a file is an array or an object over several lines, not a value a line."""
    first, end, rest = head.lstrip().partition("\n")
    if SEVERAL_LINES.match(head) is None:
        return False
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        return True
    return not (end and rest.strip()) and not (isinstance(value, list) and value and is_turn(value[0]))


def _json_lines(name: str, lines: TextLines) -> Iterator[FileRecord]:
    """A value a line. A line ends at \\n alone: JSON texts may contain other line separators."""
    number = 0
    damaged = "utf-8, damaged"
    while True:
        lines.encoding = lines.encoding.replace(damaged, "utf-8")
        if (line := lines.readline()) == "":
            return
        number += 1
        if line is None:
            yield FileRecord(None, name, number, "too_large")
            if not lines.skip_line(MAX_SKIPPED_BYTES):
                return
        elif lines.encoding == damaged:
            yield FileRecord(line[:SHOWN_CHARACTERS], name, number, "not_utf8")
        elif line.strip():
            yield _json_line(line, name, number)


def _json_line(line: str, name: str, number: int) -> FileRecord:
    shown = line[:SHOWN_CHARACTERS]
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return FileRecord(shown, name, number, "broken_line")
    return FileRecord(value, name, number) if not _has_surrogate(line, value) else _surrogate(shown, name, number)


def _json_values(name: str, lines: TextLines) -> Iterator[FileRecord]:
    """The elements of an array, or of the list that an object holds ({"data": [...]}); of an array of turns, that array."""
    for number, value in enumerate(_elements(name, lines), start=1):
        if isinstance(value, DroppedDocument):
            yield FileRecord(value.text[:SHOWN_CHARACTERS], name, number, value.reason)
        elif _has_surrogate("\\u", value):
            yield _surrogate(repr(value)[:SHOWN_CHARACTERS], name, number)
        else:
            yield FileRecord(value, name, number)


def _elements(name: str, lines: TextLines) -> Iterator[Any]:
    if LIST_OF_LISTS.match(lines.head):  # json_values parses each object for itself
        try:
            yield from json.loads("".join(lines.chunks()))
        except (ValueError, RecursionError):
            yield DroppedDocument("broken_line", name, lines.head)
        return
    values = (value for _, value in json_values(name, lines))
    is_damaged = False
    for value in values:
        is_damaged = is_damaged or isinstance(value, DroppedDocument)
        if is_turn(value):
            if is_damaged:  # what follows a damaged turn is no conversation
                return
            following = list(values)
            yield next((each for each in following if isinstance(each, DroppedDocument)), [value, *following])
            return
        inner = next(filter(_is_list_of_records, value.values()), None) if isinstance(value, dict) else None
        yield from [value] if inner is None else inner


def _is_list_of_records(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and not is_turn(value[0])


def _has_surrogate(text: str, value: Any) -> bool:
    """Whether a value read from `text` holds half of a pair; only escapes can bring one into it."""
    if "\\u" not in text:
        return False
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _surrogate(shown: str, name: str, number: int) -> FileRecord:
    return FileRecord(shown.encode("utf-8", "backslashreplace").decode(), name, number, "lone_surrogate")


def _csv_records(name: str, plain: str, stream: IO[bytes]) -> Iterator[FileRecord]:
    csv.field_size_limit(MAX_BYTES)
    lines = BoundedLines(stream)
    default = "\t" if plain.lower().endswith(".tsv") else ","
    rows = csv.reader(lines, delimiter=find_delimiter(lines.text.head[:SAMPLE_CHARACTERS], "", default))
    try:
        names = [column.strip() for column in next(rows, [])]
        begin = rows.line_num + 1
        for row in rows:
            lines.size = 0
            if any(row):
                is_whole = len(row) == len(names)
                value = dict(zip(names, row, strict=True)) if is_whole else ",".join(row)[:SHOWN_CHARACTERS]
                yield FileRecord(value, name, begin, None if is_whole else "broken_row")
            begin = rows.line_num + 1
    except csv.Error as error:
        raise UserError(f"{name}: not a table ({error})", hint="save it as CSV or as JSON lines") from None


def _sheet_records(name: str, stream: IO[bytes]) -> Iterator[FileRecord]:
    try:
        for number, (_, row) in enumerate(iter_sheet_rows(stream.read()), start=1):
            yield FileRecord({key: value for key, value in row.items() if value is not None}, name, number)
    except SHEET_ERRORS as error:
        raise UserError(f"{name}: damaged table ({error})", hint="save it as CSV or as JSON lines") from None


def _arrow_records(name: str, stream: IO[bytes], is_parquet: bool) -> Iterator[FileRecord]:
    import pyarrow.parquet

    if not is_seekable(stream) or name.lower().endswith(tuple(DECOMPRESSORS)):
        stream = io.BytesIO(stream.read())
    number = 0
    try:
        batches = pyarrow.parquet.ParquetFile(stream).iter_batches(BATCH_ROWS) if is_parquet else arrow_batches(stream)
        for batch in batches:
            batch.validate(full=True)  # a damaged file must not cause reads out of bounds
            for row in batch.to_pylist():
                number += 1
                yield FileRecord(without_nulls(row), name, number)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{name}: damaged table: {str(error).splitlines()[0]}", hint="write it again") from None


def without_nulls(value: Any) -> Any:
    """A value without the fields that are null: Arrow gives each object of a column the fields of all the others."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value
