"""The keys of all documents: 64 bits that equal texts share, and 64 for each band that similar texts share.

The first pass leaves one file a unit, NNNNN.keys: chunks of up to CHUNK documents, each (1 + bands, N), of which row 0
holds the keys of equal texts, row 1 + b those of band b. The second pass takes one row at a time, and of it no more
than fits into memory.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy
from numpy.typing import NDArray

from groundup.data.dedup.union_find import Integers, Keys
from groundup.data.executor import minhash_signatures
from groundup.data.work_files import ArrayWriter, open_array
from groundup.recipe.data_config import MinHashDedupConfig

NO_KEY = numpy.uint64(0)
"""Of what is compared with nothing: a text without any word is like no other."""

BATCH_CHARACTERS = 1 << 20
CHUNK_DOCUMENTS = 1 << 16
EMPTY_HASH = numpy.uint32(0xFFFFFFFF)


class DedupKeyWriter:
    """Writes STEM.keys, the keys of one unit's documents in their order, and STEM.signatures (N, hashes) where whole
    signatures are compared.
    """

    def __init__(self, settings: MinHashDedupConfig, seed: int, stem: Path):
        self.settings, self.seed = settings, seed
        bands = settings.num_bands if settings.action != "off" else 0
        self.chunk = numpy.empty((1 + bands, CHUNK_DOCUMENTS), numpy.uint64)
        self.filled = 0
        self.exact_keys: list[int] = []
        self.texts: list[str] = []
        self.buffered_characters = 0
        self.keys = ArrayWriter(stem.with_suffix(".keys"))
        self.signatures = (
            ArrayWriter(stem.with_suffix(".signatures")) if bands and settings.threshold > 0 else None
        )

    def add(self, key: int, text: str) -> None:
        """The next document, with the key that equal texts share."""
        self.exact_keys.append(key)
        self.texts.append(text)
        self.buffered_characters += len(text)
        if self.buffered_characters > BATCH_CHARACTERS or len(self.exact_keys) == CHUNK_DOCUMENTS:
            self._flush()

    def close(self) -> None:
        self._flush()
        self.keys.add(self.chunk[:, : self.filled])
        self.keys.close()
        if self.signatures is not None:
            self.signatures.close()

    def _flush(self) -> None:
        rows = [numpy.array(self.exact_keys, dtype=numpy.uint64)[None]]
        if len(self.chunk) > 1 and self.texts:
            bands = self.settings.num_bands
            found = minhash_signatures(
                self.texts, self.settings.ngram_size, bands * self.settings.hashes_per_band, self.seed
            )
            rows.append(band_keys(found, bands))
            if self.signatures is not None:
                self.signatures.add(found)
        if self.exact_keys:
            self._append(numpy.concatenate(rows))
        self.exact_keys, self.texts, self.buffered_characters = [], [], 0

    def _append(self, found: Keys) -> None:
        """Fill the chunk, and write it when it is full (1 + bands, up to CHUNK)."""
        room = CHUNK_DOCUMENTS - self.filled
        first, rest = found[:, :room], found[:, room:]
        self.chunk[:, self.filled : self.filled + first.shape[1]] = first
        self.filled += first.shape[1]
        if self.filled == CHUNK_DOCUMENTS:
            self.keys.add(self.chunk)
            self.chunk[:, : rest.shape[1]] = rest
            self.filled = rest.shape[1]


def band_keys(found: NDArray[numpy.uint32], bands: int) -> Keys:
    """Signatures (N, bands * rows) -> one key for each band (bands, N)."""
    values = found.reshape(len(found), bands, -1).astype(numpy.uint64)
    mixed = numpy.full(values.shape[:2], 0xCBF29CE484222325, dtype=numpy.uint64)
    for row in range(values.shape[2]):  # FNV-1a over words of 32 bits
        mixed = (mixed ^ values[:, :, row]) * numpy.uint64(0x100000001B3)
        mixed ^= mixed >> numpy.uint64(29)
    mixed |= numpy.uint64(1)
    mixed[(found == EMPTY_HASH).all(axis=1)] = NO_KEY
    return numpy.ascontiguousarray(mixed.T)


class DedupKeyTable:
    """The keys of N documents, numbered through all units in order, as files that are read in parts."""

    def __init__(self, folder: Path, counts: dict[int, int]):
        """`counts`: how many documents each unit has."""
        self.stems = [folder / f"{number:05d}" for number in sorted(counts) if counts[number]]
        self.sizes = [counts[number] for number in sorted(counts) if counts[number]]
        self.starts = numpy.concatenate([[0], numpy.cumsum(self.sizes)]).astype(numpy.int64)

    def read_row(self, row: int, part: int = 0, parts: int = 1) -> tuple[Integers, Keys]:
        """Numbers, ascending, and keys of the documents whose key in this row falls into one of `parts`."""
        return select_part(self._iter_chunks(row), part, parts)

    def signatures(self, documents: Integers) -> NDArray[numpy.uint32]:
        """The whole signatures (len(wanted), hashes) of some documents, whose numbers ascend."""
        cuts = numpy.searchsorted(documents, self.starts)
        found = [
            open_array(stem.with_suffix(".signatures"), numpy.uint32).reshape(size, -1)[documents[first:last] - start]
            for stem, size, start, first, last in zip(self.stems, self.sizes, self.starts, cuts, cuts[1:], strict=False)
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
    """One long row of keys piece by piece, each with the number of its first key."""
    for first in range(0, len(keys), CHUNK_DOCUMENTS):
        yield start + first, keys[first : first + CHUNK_DOCUMENTS]


def select_part(chunks: Iterator[tuple[int, Keys]], part: int, parts: int) -> tuple[Integers, Keys]:
    """Of (number of the first key, keys) pairs all that falls into a part, as (numbers, keys)."""
    places, kept = [numpy.zeros(0, dtype=numpy.int64)], [numpy.zeros(0, dtype=numpy.uint64)]
    for start, keys in chunks:
        # The lowest bit is no key's own, so parts are made of those above it.
        wanted = (keys != NO_KEY) & ((keys >> numpy.uint64(8)) % numpy.uint64(parts) == part)
        places.append(numpy.flatnonzero(wanted) + start)
        kept.append(keys[wanted])
    return numpy.concatenate(places), numpy.concatenate(kept)
