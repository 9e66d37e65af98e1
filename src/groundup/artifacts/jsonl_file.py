"""JSON Lines files that this project writes: one reader, which names every damaged line.

A file that grows over days (a training's records) has no hash in a manifest yet: each of its lines ends with the CRC-32
of the text before.
"""

import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from groundup.artifacts.directory import commit_file
from groundup.artifacts.errors import UserError

CHECKSUM_FIELD = "crc32"
_CHECKSUM_START = f', "{CHECKSUM_FIELD}": "'.encode()


def encode_line(record: dict[str, Any]) -> str:
    """A record as one line with its checksum as the last field. `record` is not empty."""
    text = json.dumps(record)[:-1]
    return f'{text}{_CHECKSUM_START.decode()}{zlib.crc32(text.encode()):08x}"}}\n'


def write_jsonl(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write a file of records without checksums, which a manifest will hash; it appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        file.writelines(json.dumps(record, ensure_ascii=False, default=str) + "\n" for record in records)
    commit_file(temporary, path)


def decode_line(line: bytes, *, checksum: bool = False) -> dict[str, Any]:
    """The record of a line, without its checksum. Raises ValueError for a damaged line.

    `checksum`: a line without a checksum is damaged.
    """
    text, separator, stated = line.rstrip(b"\r\n").rpartition(_CHECKSUM_START)
    if (checksum or separator) and stated != f'{zlib.crc32(text):08x}"}}'.encode():
        raise ValueError("its content does not have the checksum that it states")
    try:
        record = json.loads(line)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(record, dict):
        raise ValueError(f"{type(record).__name__} found, expected an object")
    record.pop(CHECKSUM_FIELD, None)
    return record


def read_jsonl(
    path: Path, *, checksum: bool = False, on_damage: Callable[[str], None] | None = None
) -> Iterator[dict[str, Any]]:
    """The records of a file; none if it does not exist.

    A damaged line is skipped, and `on_damage` called with a line that names it; without `on_damage`, UserError is raised.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield decode_line(line, checksum=checksum)
            except ValueError as error:
                message = f"{path}, line {number}: damaged or cut off: {error}"
                if on_damage is None:
                    raise UserError(message, hint="groundup verify RUN names every damaged file") from None
                on_damage(message)
