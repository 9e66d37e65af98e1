"""Sample of the training text on which a tokenizer is trained."""

from collections.abc import Iterator
from pathlib import Path

from groundup.data.stable_hash import hash_fraction
from groundup.tokenizer import parquet_documents

BATCH_BYTES = 4_000_000

MIN_EXAMPLE_CHARACTERS = 200
"""Length of a text that is long enough to show in the report."""


class CorpusSample:
    """Documents chosen by a hash of (seed, text): independent of the machine and of the order of the files."""

    def __init__(self, data: Path, corpus_bytes: int, fraction: float, seed: int):
        self.corpus_bytes = corpus_bytes
        self.bytes = 0
        self.example_text = ""
        self._data, self._fraction, self._seed = data, fraction, seed

    def texts(self) -> Iterator[str]:
        for path in parquet_documents.parquet_files(self._data, "train"):
            for documents in parquet_documents.read_batches(path, BATCH_BYTES):
                for text in documents.texts:
                    if self._fraction < 1 and hash_fraction(text, self._seed) >= self._fraction:
                        continue
                    self.bytes += len(text.encode())
                    if len(self.example_text) < MIN_EXAMPLE_CHARACTERS:
                        self.example_text = max(self.example_text, text, key=len)
                    yield text


def sample_corpus(data: Path, sample_bytes: int, seed: int) -> CorpusSample:
    """A sample of about `sample_bytes` bytes of the training text, or all of it."""
    total = sum(parquet_documents.count_text_bytes(path) for path in parquet_documents.parquet_files(data, "train"))
    return CorpusSample(data, total, min(1.0, sample_bytes / max(total, 1)), seed)
