"""The keys of all documents: 64 bits that equal texts share, and 64 for each band that similar texts share.

The first pass leaves one file a unit, NNNNN.keys.npy (1 + bands, N): row 0 holds the keys of equal texts, row 1 + b
those of band b. The second pass takes one row at a time, and of it no more than fits into memory.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy
from numpy.typing import NDArray

from groundup.data.dedup.clusters import Integers, Keys
from groundup.data.engine import signatures
from groundup.data.rows import save_array
from groundup.recipe.data import MinHash

NO_KEY = numpy.uint64(0)
"""Of what is compared with nothing: a text without any word is like no other."""

BATCH_CHARACTERS = 1 << 20
CHUNK = 1 << 20
NO_WORDS = numpy.uint32(0xFFFFFFFF)


class KeyWriter:
    """Collects the keys of one unit's documents, in their order."""

    def __init__(self, settings: MinHash, seed: int):
        self.settings, self.seed = settings, seed
        self.equal: list[int] = []
        self.texts: list[str] = []
        self.held = 0
        self.bands: list[Keys] = []
        self.signatures: list[NDArray[numpy.uint32]] = []

    def add(self, key: int, text: str) -> None:
        """The next document, with the key that equal texts share."""
        self.equal.append(key)
        if self.settings.action != "off":
            self.texts.append(text)
            self.held += len(text)
            if self.held > BATCH_CHARACTERS:
                self._sign()

    def save(self, stem: Path) -> None:
        """STEM.keys.npy, and STEM.signatures.npy (N, hashes) where whole signatures are compared."""
        if self.texts:
            self._sign()
        equal = numpy.array(self.equal, dtype=numpy.uint64)[None]
        save_array(stem.with_suffix(".keys.npy"), numpy.concatenate([equal, *_joined(self.bands, axis=1)]))
        if self.signatures:
            save_array(stem.with_suffix(".signatures.npy"), numpy.concatenate(self.signatures))

    def _sign(self) -> None:
        bands, rows = self.settings.bands, self.settings.rows
        found = signatures(self.texts, self.settings.shingle, bands * rows, self.seed)
        self.bands.append(band_keys(found, bands))
        if self.settings.threshold > 0:
            self.signatures.append(found)
        self.texts, self.held = [], 0


def _joined(parts: list[Keys], axis: int) -> list[Keys]:
    return [numpy.concatenate(parts, axis=axis)] if parts else []


def band_keys(found: NDArray[numpy.uint32], bands: int) -> Keys:
    """Signatures (N, bands * rows) -> one key for each band (bands, N)."""
    values = found.reshape(len(found), bands, -1).astype(numpy.uint64)
    mixed = numpy.full(values.shape[:2], 0xCBF29CE484222325, dtype=numpy.uint64)
    for row in range(values.shape[2]):  # FNV-1a over words of 32 bits
        mixed = (mixed ^ values[:, :, row]) * numpy.uint64(0x100000001B3)
        mixed ^= mixed >> numpy.uint64(29)
    mixed |= numpy.uint64(1)
    mixed[(found == NO_WORDS).all(axis=1)] = NO_KEY
    return numpy.ascontiguousarray(mixed.T)


class KeyTable:
    """The keys of N documents, numbered through all units in order, as files that are read in parts."""

    def __init__(self, folder: Path, counts: dict[int, int]):
        """`counts`: how many documents each unit has."""
        self.stems = [folder / f"{number:05d}" for number in sorted(counts) if counts[number]]
        sizes = [counts[number] for number in sorted(counts) if counts[number]]
        self.starts = numpy.concatenate([[0], numpy.cumsum(sizes)]).astype(numpy.int64)

    def row(self, row: int, part: int = 0, parts: int = 1) -> tuple[Integers, Keys]:
        """Numbers, ascending, and keys of the documents whose key in this row falls into one of `parts`."""
        arrays = (numpy.load(stem.with_suffix(".keys.npy"), mmap_mode="r")[row] for stem in self.stems)
        return collect(zip(self.starts.tolist(), arrays, strict=False), part, parts)

    def signatures(self, numbers: Integers) -> NDArray[numpy.uint32]:
        """The whole signatures (len(numbers), hashes) of some documents, whose numbers ascend."""
        cuts = numpy.searchsorted(numbers, self.starts)
        found = [
            numpy.load(stem.with_suffix(".signatures.npy"), mmap_mode="r")[numbers[first:last] - start]
            for stem, start, first, last in zip(self.stems, self.starts, cuts, cuts[1:], strict=False)
            if first < last
        ]
        return numpy.concatenate(found)


def collect(arrays: Iterator[tuple[int, Keys]], part: int, parts: int) -> tuple[Integers, Keys]:
    """Of (number of the first key, keys) pairs all that falls into a part, as (numbers, keys); reads piece by piece."""
    numbers, keys = [numpy.zeros(0, dtype=numpy.int64)], [numpy.zeros(0, dtype=numpy.uint64)]
    for start, array in arrays:
        for first in range(0, len(array), CHUNK):
            piece = numpy.asarray(array[first : first + CHUNK])
            # The lowest bit is no key's own, so parts are made of those above it.
            wanted = (piece != NO_KEY) & ((piece >> numpy.uint64(8)) % numpy.uint64(parts) == part)
            numbers.append(numpy.flatnonzero(wanted) + (start + first))
            keys.append(piece[wanted])
    return numpy.concatenate(numbers), numpy.concatenate(keys)
