"""Documents of a data artifact: its parquet files and their texts, in a fixed order."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow

from groundup.data.work_files import open_parquet

READ_BATCH_DOCUMENTS = 64
"""Documents read at a time; one document may be a book."""


@dataclass(frozen=True)
class DocumentBatch:
    """Texts of documents, the source of each, and its UTF-8 bytes."""

    texts: list[str]
    sources: list[str]
    sizes: list[int]


def parquet_files(data: Path, split: str) -> list[Path]:
    """The parquet files of "train" or "validation", in order."""
    return sorted((data / split).glob("*.parquet"))


def read_batches(path: Path, size: int) -> Iterator[DocumentBatch]:
    """The documents of one parquet file, about `size` bytes of text at a time.

    Raises UserError when the file cannot be read.
    """
    texts: list[str] = []
    sources: list[str] = []
    sizes: list[int] = []
    with open_parquet(path) as file:
        for rows in file.iter_batches(batch_size=READ_BATCH_DOCUMENTS, columns=["text", "source"]):
            texts += rows.column("text").to_pylist()
            sources += rows.column("source").to_pylist()
            sizes += _byte_lengths(rows.column("text")).to_pylist()
            if sum(sizes) >= size:
                yield DocumentBatch(texts, sources, sizes)
                texts, sources, sizes = [], [], []
    if texts:
        yield DocumentBatch(texts, sources, sizes)


def count_documents(path: Path) -> int:
    """Documents in one parquet file. Raises UserError when the file cannot be read."""
    with open_parquet(path) as file:
        return file.metadata.num_rows


def count_text_bytes(path: Path) -> int:
    """Bytes of text in one parquet file, in UTF-8. Raises UserError when the file cannot be read."""
    with open_parquet(path) as file:
        batches = file.iter_batches(batch_size=READ_BATCH_DOCUMENTS, columns=["text"])
        return sum(sum(_byte_lengths(rows.column("text")).to_pylist()) for rows in batches)


def _byte_lengths(texts: pyarrow.Array) -> pyarrow.Array:
    import pyarrow.compute  # slow to import

    return pyarrow.compute.call_function("binary_length", [texts])
