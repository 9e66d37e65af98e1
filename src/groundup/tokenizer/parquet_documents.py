"""Documents of a data artifact in a fixed order, and a random sample of its training text."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow

from groundup.data.stable_hash import hash_fraction
from groundup.data.work_files import open_parquet

READ_BATCH_DOCUMENTS = 64
"""Documents read at a time; one document may be a book."""

SAMPLE_BATCH_BYTES = 4_000_000

MIN_EXAMPLE_CHARACTERS = 200
"""Length of a text that is long enough to show in the report."""


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


class CorpusSample:
    """Training text of a tokenizer, chosen by a hash of (seed, text): independent of machine and order of the files."""

    def __init__(self, data: Path, corpus_bytes: int, fraction: float, seed: int):
        self.corpus_bytes = corpus_bytes
        self.bytes = 0
        self.example_text = ""
        self._data, self._fraction, self._seed = data, fraction, seed

    def texts(self) -> Iterator[str]:
        for path in parquet_files(self._data, "train"):
            for documents in read_batches(path, SAMPLE_BATCH_BYTES):
                for text in documents.texts:
                    if self._fraction < 1 and hash_fraction(text, self._seed) >= self._fraction:
                        continue
                    self.bytes += len(text.encode())
                    if len(self.example_text) < MIN_EXAMPLE_CHARACTERS:
                        self.example_text = max(self.example_text, text, key=len)
                    yield text


def sample_corpus(data: Path, sample_bytes: int, seed: int) -> CorpusSample:
    """A sample of about `sample_bytes` bytes of the training text, or all of it."""
    total = sum(count_text_bytes(path) for path in parquet_files(data, "train"))
    return CorpusSample(data, total, min(1.0, sample_bytes / max(total, 1)), seed)
