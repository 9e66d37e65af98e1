"""Files of the data stage: parquet files of documents, arrays and JSON, each complete or missing."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray

from groundup.artifacts.directory import commit_file, write_atomically
from groundup.artifacts.errors import UserError

CLEAN_SCHEMA = pyarrow.schema(
    [
        ("ordinal", pyarrow.int64()),
        ("source", pyarrow.string()),
        ("id", pyarrow.string()),
        ("text", pyarrow.large_string()),
        ("key", pyarrow.uint64()),
        ("bytes", pyarrow.int64()),
        ("license", pyarrow.string()),
    ]
)
"""Cleaned documents: `ordinal` is unit * 2**32 + row, `key` the `text_key`."""

FINAL_SCHEMA = pyarrow.schema(
    [
        ("text", pyarrow.large_string()),
        ("source", pyarrow.string()),
        ("id", pyarrow.string()),
        ("license", pyarrow.string()),
    ]
)
"""The corpus, as later stages read it; `license` is "" where it is not known."""

ROW_GROUP_BYTES = 8 << 20
ORDINAL_UNIT_BITS = 32
READ_BATCH_DOCUMENTS = 256


@contextmanager
def open_parquet(path: Path, columns: tuple[str, ...] = ()) -> Iterator[pyarrow.parquet.ParquetFile]:
    """Open a parquet file that must have these columns. Raises UserError if it cannot be read, also while open."""
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            for column in columns:
                if column not in names:
                    raise UserError(f"{path}: no column `{column}`", hint=f"its columns: {', '.join(names)}")
            yield file
    except (pyarrow.ArrowException, OSError, KeyError) as error:
        raise UserError(f"{path}: not a readable parquet file: {error}", hint="groundup verify RUN") from None


def iter_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a parquet file."""
    with open_parquet(path) as file:
        for batch in file.iter_batches(batch_size=READ_BATCH_DOCUMENTS):
            yield from batch.to_pylist()


def temporary_path(path: Path) -> Path:
    """Temporary name until a file is complete; it has the process id, as an earlier worker may still be writing."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


class ArrayWriter:
    """Appends arrays to a binary file, which is renamed to `path` when closed."""

    def __init__(self, path: Path):
        self.path, self.partial = path, temporary_path(path)
        self.file = self.partial.open("wb")

    def add(self, array: NDArray[Any]) -> None:
        self.file.write(numpy.ascontiguousarray(array).data)

    def close(self) -> None:
        self.file.close()
        commit_file(self.partial, self.path)


def open_array(path: Path, dtype: Any) -> NDArray[Any]:
    """Memory map of an `ArrayWriter` file (N)."""
    return numpy.memmap(path, dtype, mode="r") if path.stat().st_size else numpy.zeros(0, dtype)


class DocumentWriter:
    """Writes rows to a parquet file, which is renamed to `path` when closed."""

    def __init__(self, path: Path, schema: pyarrow.Schema):
        self.path, self.schema = path, schema
        self.partial = temporary_path(path)
        self.rows: list[dict[str, Any]] = []
        self.bytes = 0
        self.file = pyarrow.parquet.ParquetWriter(self.partial, schema, compression="zstd", store_schema=False)

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.bytes += len(row["text"])
        if self.bytes >= ROW_GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        """End the row group."""
        self.file.write_table(pyarrow.Table.from_pylist(self.rows, schema=self.schema))
        self.rows, self.bytes = [], 0

    def close(self) -> None:
        if self.rows:
            self.flush()
        self.file.close()
        commit_file(self.partial, self.path)


def write_json_atomically(path: Path, value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
    write_atomically(path, text.encode("utf-8", "replace"))
