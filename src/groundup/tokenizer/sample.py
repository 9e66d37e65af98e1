"""The text that a vocabulary is learnt from: all of it, or an even sample of a large corpus."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from groundup.tokenizer import corpus

BATCH_BYTES = 4_000_000

SHOWN_LETTERS = 200
"""A text of at least this length is fit to be shown in the report."""


class Sample:
    """Documents chosen by a hash of (seed, text): the same ones on every machine, in any order of the files."""

    def __init__(self, data: Path, corpus_bytes: int, share: float, seed: int):
        self.corpus_bytes = corpus_bytes
        self.bytes = 0
        self.first_text = ""
        self._data, self._share, self._seed = data, share, seed

    def texts(self) -> Iterator[str]:
        for path in corpus.files(self._data, "train"):
            for documents in corpus.batches(path, BATCH_BYTES):
                for text in documents.texts:
                    if self._share < 1 and _draw(text, self._seed) >= self._share:
                        continue
                    self.bytes += len(text.encode())
                    if len(self.first_text) < SHOWN_LETTERS:
                        self.first_text = max(self.first_text, text, key=len)
                    yield text


def draw(data: Path, sample_bytes: int, seed: int) -> Sample:
    """A sample of about `sample_bytes` bytes of the training text, or all of it where there is less."""
    total = sum(corpus.text_bytes(path) for path in corpus.files(data, "train"))
    return Sample(data, total, min(1.0, sample_bytes / max(total, 1)), seed)


def _draw(text: str, seed: int) -> float:
    """A number in [0, 1) that depends on the seed and the text alone."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "little") / 2**64
