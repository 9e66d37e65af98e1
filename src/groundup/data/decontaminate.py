"""Keep evaluation sets out: a model must not be tested on what it has read.

Words are lower-case letters and digits. "13-gram": a document that shares a run of 13 words with an item is
dropped (Brown et al. 2020, arXiv:2005.14165, appendix C); items of fewer words count whole, from 8 words on.
"8-gram": a document that holds 70% of an item's runs of 8 words is dropped (Chowdhery et al. 2022,
arXiv:2204.02311, section 8).
"""

import hashlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy
from numpy.typing import NDArray

from groundup.data.clean.words import run_hashes

WORD = re.compile(r"[^\W_]+")
SHORTEST = 8
ITEM_SHARE = 0.7
Keys = NDArray[numpy.uint64]
Integers = NDArray[numpy.int64]
LENGTHS = {"13-gram": 13, "8-gram": 8}


class Index:
    """The runs of words of all evaluation items: `hashes` (R, ascending) and, beside each, the number of its
    item.

    `runs` (I) is how many different runs each item has, `names` (I) what the items are called, SET/ITEM;
    `sizes` are the lengths of runs that occur.
    """

    def __init__(self, hashes: Keys, items: Integers, runs: Integers, sizes: Integers, names: list[str]):
        self.hashes, self.items, self.runs, self.sizes, self.names = hashes, items, runs, sizes, names

    @classmethod
    def build(cls, texts: Iterable[tuple[str, str]], rule: str) -> "Index":
        """From (name, text) pairs. Items of fewer than 8 words are too common to be looked for."""
        hashes, items, runs, names = [], [], [], []
        sizes: set[int] = set()
        for name, text in texts:
            numbers = _numbers(text)
            if len(numbers) < SHORTEST:
                continue
            size = min(LENGTHS[rule], len(numbers))
            sizes.add(size)
            found = numpy.unique(run_hashes(numbers, size))
            hashes.append(found)
            items.append(numpy.full(len(found), len(names), dtype=numpy.int64))
            runs.append(len(found))
            names.append(name)
        everything = numpy.concatenate([numpy.zeros(0, dtype=numpy.uint64), *hashes])
        of = numpy.concatenate([numpy.zeros(0, dtype=numpy.int64), *items])
        order = numpy.lexsort((of, everything))
        lengths = numpy.array(sorted(sizes), dtype=numpy.int64)
        return cls(everything[order], of[order], numpy.array(runs, dtype=numpy.int64), lengths, names)

    def save(self, path: Path) -> None:
        """As .npz, without pickled objects."""
        names = numpy.array(self.names, dtype=numpy.str_)
        with path.open("wb") as file:
            numpy.savez(
                file, hashes=self.hashes, items=self.items, runs=self.runs, sizes=self.sizes, names=names
            )

    @classmethod
    def load(cls, path: Path) -> "Index":
        with numpy.load(path, allow_pickle=False) as file:
            return cls(file["hashes"], file["items"], file["runs"], file["sizes"], file["names"].tolist())


def contamination_rule(index: Index, rule: str, hits: list[str]) -> Callable[[str], str | None]:
    """A judge: the reason names the evaluation set; the item that a document holds is appended to `hits`."""

    def said(item: int) -> str:
        hits.append(index.names[item])
        return index.names[item].partition("/")[0]

    def judge(text: str) -> str | None:
        numbers = _numbers(text)
        for size in index.sizes.tolist():
            found = numpy.unique(run_hashes(numbers, size))
            places = numpy.searchsorted(index.hashes, found)
            shared = found[index.hashes[numpy.minimum(places, len(index.hashes) - 1)] == found]
            if len(shared) == 0:
                continue
            starts = numpy.searchsorted(index.hashes, shared)
            stops = numpy.searchsorted(index.hashes, shared, side="right")
            items = numpy.concatenate(
                [index.items[start:stop] for start, stop in zip(starts, stops, strict=True)]
            )
            if rule == "13-gram":
                return said(int(items.min()))
            counts = numpy.bincount(items, minlength=len(index.runs))
            full = numpy.flatnonzero(counts >= ITEM_SHARE * index.runs)
            if len(full):
                return said(int(full[0]))
        return None

    return judge


def _numbers(text: str) -> Keys:
    known: dict[str, int] = {}
    return numpy.array(
        [
            known[word] if word in known else known.setdefault(word, _hash(word))
            for word in WORD.findall(text.lower())
        ],
        dtype=numpy.uint64,
    )


def _hash(word: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little"
    )
