"""Documents as parquet rows on their way through the stage."""

import json
import os
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray

from groundup.artifacts.directory import write_atomically

CLEAN_SCHEMA = pyarrow.schema(
    [
        ("ordinal", pyarrow.int64()),
        ("source", pyarrow.string()),
        ("id", pyarrow.string()),
        ("text", pyarrow.large_string()),
        ("key", pyarrow.uint64()),
        ("bytes", pyarrow.int64()),
    ]
)
"""What reading and cleaning leave: `ordinal` is unit * 2**32 + row, `key` the hash that equal texts share."""

FINAL_SCHEMA = pyarrow.schema(
    [("text", pyarrow.large_string()), ("source", pyarrow.string()), ("id", pyarrow.string())]
)
"""What later stages read."""

ROW_GROUP_BYTES = 8 << 20
"""Text that is held before it is written as one row group."""

ORDINAL_UNIT_BITS = 32


def partial_path(path: Path) -> Path:
    """Where a file grows until it is complete: a name of this process, for one that was cut off may still write."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


class ArrayWriter:
    """A file of numbers that grows by what is added, and gets its name when it is complete."""

    def __init__(self, path: Path):
        self.path, self.partial = path, partial_path(path)
        self.file = self.partial.open("wb")

    def add(self, array: NDArray[Any]) -> None:
        self.file.write(numpy.ascontiguousarray(array).data)

    def close(self) -> None:
        self.file.close()
        self.partial.replace(self.path)


def open_array(path: Path, dtype: Any) -> NDArray[Any]:
    """What a file of `Numbers` holds (N), without reading it before it is needed."""
    return numpy.memmap(path, dtype, mode="r") if path.stat().st_size else numpy.zeros(0, dtype)


class DocumentWriter:
    """Writes rows to a parquet file that gets its name when it is complete."""

    def __init__(self, path: Path, schema: pyarrow.Schema):
        self.path, self.schema = path, schema
        self.partial = partial_path(path)
        self.rows: list[dict[str, Any]] = []
        self.bytes = 0
        self.file = pyarrow.parquet.ParquetWriter(
            self.partial, schema, compression="zstd", store_schema=False
        )

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
        self.partial.replace(self.path)


def write_json_atomically(path: Path, value: Any) -> None:
    write_atomically(
        path,
        (json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True) + "\n").encode("utf-8", "replace"),
    )
