"""The documents of a data artifact, in one order that never changes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.compute as compute
import pyarrow.parquet

from groundup.artifacts.errors import UserError

ROWS = 256
"""Documents that are held at once; a book may be one document."""


@dataclass(frozen=True)
class Documents:
    """A run of documents: text and the name of the source, side by side."""

    texts: list[str]
    sources: list[str]


def files(data: Path, split: str) -> list[Path]:
    """The parquet files of "train" or "validation", in order."""
    return sorted((data / split).glob("*.parquet"))


def read(path: Path) -> Iterator[Documents]:
    """The documents of one parquet file, a few at a time. Raises UserError when it cannot be read."""
    with _opened(path) as file:
        for batch in file.iter_batches(batch_size=ROWS, columns=["text", "source"]):
            columns = batch.to_pydict()
            yield Documents(columns["text"], columns["source"])


def text_bytes(path: Path) -> int:
    """Bytes of text in one parquet file, UTF-8."""
    with _opened(path) as file:
        columns = (batch.column("text") for batch in file.iter_batches(batch_size=ROWS, columns=["text"]))
        return sum(compute.sum(compute.binary_length(column)).as_py() or 0 for column in columns)


@contextmanager
def _opened(path: Path) -> Iterator[pyarrow.parquet.ParquetFile]:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield file
    except (pyarrow.ArrowException, OSError, KeyError) as error:
        raise UserError(f"{path}: not a readable parquet file of documents: {error}", hint="groundup verify RUN") from None
