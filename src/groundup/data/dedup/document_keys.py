"""Deduplication keys of documents: a 64-bit hash of the normalized text, and one per MinHash band.

On disk, one file per work unit, NNNNN.keys: chunks of up to CHUNK_DOCUMENTS documents, each (1 + bands, N); row 0
holds exact keys, row 1 + b the keys of band b. One row is read at a time, in parts that fit into memory.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

import numpy
from numpy.typing import NDArray

from groundup.artifacts.progress import Progress
from groundup.data.clean.normalize import SURROGATES
from groundup.data.dedup.union_find import Integers, Keys
from groundup.data.executor import minhash_signatures
from groundup.data.stable_hash import hash_bytes
from groundup.data.work_files import ArrayWriter, open_array
from groundup.recipe.data_config import MinHashDedupConfig

Signatures = NDArray[numpy.uint32]

NO_KEY = numpy.uint64(0)
"""Key of a text without words, which is compared with nothing."""
EMPTY_HASH = numpy.uint32(0xFFFFFFFF)

BATCH_CHARACTERS = 1 << 20
CHUNK_DOCUMENTS = 1 << 16

KEPT_PUNCTUATION = "#%&*/@\\"
"""Signs that tell texts apart: C# from C. Others of the kind are symbols in Unicode: + < = > | ~ $ ^"""

IGNORED = "".join(
    character
    for character in map(chr, range(0x10000))
    if unicodedata.category(character)[0] in "PZC" and character not in KEPT_PUNCTUATION + "_"
)
IGNORED_CHARACTERS = re.compile(f"[{re.escape(IGNORED)}]+")
IGNORED_BYTES = IGNORED.encode("ascii", "ignore")
LOWERCASE_TABLE = bytes(byte + 32 if 65 <= byte <= 90 else byte for byte in range(256))
"""ASCII fast path: bytes.translate is many times faster than a regular expression."""

SPACE_BYTES = b" \t\n\r\f\v"


def text_key(text: str) -> int:
    """64-bit hash of a text without case, punctuation and spaces; vowel signs and symbols count."""
    letters = text.encode("utf-8", "surrogatepass").translate(LOWERCASE_TABLE, IGNORED_BYTES)
    if not letters.isascii():
        lower = letters.decode("utf-8", "surrogatepass").lower()
        letters = IGNORED_CHARACTERS.sub("", lower).encode("utf-8", "surrogatepass")
    return hash_bytes(letters or text.encode("utf-8", "surrogatepass"))


def code_key(text: str) -> int:
    """64-bit hash of source code without spaces and empty lines."""
    return hash_bytes(text.encode("utf-8", "surrogatepass").translate(None, SPACE_BYTES))


def num_bands(config: MinHashDedupConfig) -> int:
    return config.num_bands if config.action != "off" else 0


def document_keys(
    texts: list[str], exact_keys: list[int], config: MinHashDedupConfig, seed: int
) -> tuple[Keys, Signatures | None]:
    """Keys (1 + bands, N) of N texts, and their MinHash signatures (N, hashes) unless MinHash is off."""
    exact, bands = numpy.array(exact_keys, dtype=numpy.uint64)[None], num_bands(config)
    if not bands or not texts:
        return exact, None
    signatures = minhash_signatures(texts, config.ngram_size, bands * config.hashes_per_band, seed)
    return numpy.concatenate([exact, band_keys(signatures, bands)]), signatures


def band_keys(signatures: Signatures, bands: int) -> Keys:
    """Signatures (N, bands * rows) -> one key per band (bands, N)."""
    values = signatures.reshape(len(signatures), bands, -1).astype(numpy.uint64)
    mixed = numpy.full(values.shape[:2], 0xCBF29CE484222325, dtype=numpy.uint64)
    for row in range(values.shape[2]):  # FNV-1a over 32-bit words
        mixed = (mixed ^ values[:, :, row]) * numpy.uint64(0x100000001B3)
        mixed ^= mixed >> numpy.uint64(29)
    mixed |= numpy.uint64(1)
    mixed[(signatures == EMPTY_HASH).all(axis=1)] = NO_KEY
    return numpy.ascontiguousarray(mixed.T)


class DedupKeyWriter:
    """Writes STEM.keys of one work unit, and STEM.signatures (N, hashes) if candidates are verified."""

    def __init__(self, config: MinHashDedupConfig, seed: int, stem: Path):
        self.config, self.seed = config, seed
        self.chunk = numpy.empty((1 + num_bands(config), CHUNK_DOCUMENTS), numpy.uint64)
        self.filled = 0
        self.exact_keys: list[int] = []
        self.texts: list[str] = []
        self.buffered_characters = 0
        self.keys = ArrayWriter(stem.with_suffix(".keys"))
        has_signatures = num_bands(config) and config.threshold > 0
        self.signatures = ArrayWriter(stem.with_suffix(".signatures")) if has_signatures else None

    def add(self, key: int, text: str) -> None:
        """Append one document with its `text_key`."""
        self.exact_keys.append(key)
        self.texts.append(text)
        self.buffered_characters += len(text)
        if self.buffered_characters > BATCH_CHARACTERS or len(self.texts) == CHUNK_DOCUMENTS:
            self._flush()

    def close(self) -> None:
        self._flush()
        self.keys.add(self.chunk[:, : self.filled])
        self.keys.close()
        if self.signatures is not None:
            self.signatures.close()

    def _flush(self) -> None:
        if self.texts:
            keys, signatures = document_keys(self.texts, self.exact_keys, self.config, self.seed)
            if self.signatures is not None and signatures is not None:
                self.signatures.add(signatures)
            self._append(keys)
        self.exact_keys, self.texts, self.buffered_characters = [], [], 0

    def _append(self, keys: Keys) -> None:
        """Fill the chunk (1 + bands, up to CHUNK_DOCUMENTS), and write it when it is full."""
        room = CHUNK_DOCUMENTS - self.filled
        first, rest = keys[:, :room], keys[:, room:]
        self.chunk[:, self.filled : self.filled + first.shape[1]] = first
        self.filled += first.shape[1]
        if self.filled == CHUNK_DOCUMENTS:
            self.keys.add(self.chunk)
            self.chunk[:, : rest.shape[1]] = rest
            self.filled = rest.shape[1]


class DedupKeys(Protocol):
    """Keys and signatures of N documents, in memory or on disk."""

    def read_row(self, row: int, part: int = 0, parts: int = 1) -> tuple[Integers, Keys]:
        """Ascending document numbers and keys in one row, of those keys that belong to `part` of `parts`."""
        ...

    def signatures(self, documents: Integers) -> Signatures:
        """Signatures (len(documents), hashes) of documents with ascending numbers."""
        ...


class InMemoryKeys:
    """DedupKeys of texts in memory, computed in batches."""

    def __init__(
        self,
        texts: list[str],
        config: MinHashDedupConfig,
        seed: int,
        key: Callable[[str], int] = text_key,
        progress: Progress | None = None,
    ):
        keys = [numpy.zeros((1 + num_bands(config), 0), numpy.uint64)]
        signatures: list[Signatures] = []
        with (progress or Progress()).task("hashing", total=len(texts), unit="texts") as task:
            for batch in _batches(texts):
                found, signed = document_keys(batch, [key(text) for text in batch], config, seed)
                keys.append(found)
                if signed is not None:
                    signatures.append(signed)
                task.advance(len(batch))
        self._keys = numpy.concatenate(keys, axis=1)
        self._signatures = numpy.concatenate(signatures) if signatures else None

    def read_row(self, row: int, part: int = 0, parts: int = 1) -> tuple[Integers, Keys]:
        return select_part(iter_key_chunks(0, self._keys[row]), part, parts)

    def signatures(self, documents: Integers) -> Signatures:
        assert self._signatures is not None
        return self._signatures[documents]


def _batches(texts: list[str]) -> Iterator[list[str]]:
    """The texts, about BATCH_CHARACTERS at a time, without lone surrogates."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(SURROGATES.sub("", text))
        size += len(text)
        if size > BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class DedupKeyTable:
    """DedupKeys of all units, as files; documents are numbered through all units in order."""

    def __init__(self, folder: Path, counts: dict[int, int]):
        """`counts`: documents per unit."""
        self.stems = [folder / f"{unit:05d}" for unit in sorted(counts) if counts[unit]]
        self.sizes = [counts[unit] for unit in sorted(counts) if counts[unit]]
        self.starts = numpy.concatenate([[0], numpy.cumsum(self.sizes)]).astype(numpy.int64)

    def read_row(self, row: int, part: int = 0, parts: int = 1) -> tuple[Integers, Keys]:
        return select_part(self._iter_chunks(row), part, parts)

    def signatures(self, documents: Integers) -> Signatures:
        bounds = numpy.searchsorted(documents, self.starts)
        found = [
            open_array(stem.with_suffix(".signatures"), numpy.uint32).reshape(size, -1)[documents[first:last] - start]
            for stem, size, start, first, last in zip(
                self.stems, self.sizes, self.starts, bounds, bounds[1:], strict=False
            )
            if first < last
        ]  # fmt: skip
        return numpy.concatenate(found)

    def _iter_chunks(self, row: int) -> Iterator[tuple[int, Keys]]:
        for stem, size, start in zip(self.stems, self.sizes, self.starts.tolist(), strict=False):
            keys = open_array(stem.with_suffix(".keys"), numpy.uint64)
            rows = len(keys) // size
            for first in range(0, size, CHUNK_DOCUMENTS):
                chunk = keys[rows * first : rows * min(first + CHUNK_DOCUMENTS, size)].reshape(rows, -1)
                yield start + first, chunk[row]


def iter_key_chunks(start: int, keys: Keys) -> Iterator[tuple[int, Keys]]:
    """Chunks of a row of keys, each with the number of its first key."""
    for first in range(0, len(keys), CHUNK_DOCUMENTS):
        yield start + first, keys[first : first + CHUNK_DOCUMENTS]


def select_part(chunks: Iterable[tuple[int, Keys]], part: int, parts: int) -> tuple[Integers, Keys]:
    """(numbers, keys) of the keys in one part, from chunks of (number of the first key, keys)."""
    numbers, selected = [numpy.zeros(0, dtype=numpy.int64)], [numpy.zeros(0, dtype=numpy.uint64)]
    for start, keys in chunks:
        # The lowest bit of a key is always set, so parts are made of the bits above.
        in_part = (keys != NO_KEY) & ((keys >> numpy.uint64(8)) % numpy.uint64(parts) == part)
        numbers.append(numpy.flatnonzero(in_part) + start)
        selected.append(keys[in_part])
    return numpy.concatenate(numbers), numpy.concatenate(selected)
