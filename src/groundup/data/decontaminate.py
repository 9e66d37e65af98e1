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

from groundup.data.clean.ngrams import ngram_hashes

WORD = re.compile(r"[^\W_]+")
MIN_ITEM_WORDS = 8
MIN_ITEM_OVERLAP = 0.7
Keys = NDArray[numpy.uint64]
Integers = NDArray[numpy.int64]
NGRAM_SIZES = {"13-gram": 13, "8-gram": 8}


class EvaluationIndex:
    """The runs of words of all evaluation items: `hashes` (R, ascending) and, beside each, the number of its
    item.

    `runs` (I) is how many different runs each item has, `names` (I) what the items are called, SET/ITEM;
    `sizes` are the lengths of runs that occur.
    """

    def __init__(self, hashes: Keys, items: Integers, runs: Integers, sizes: Integers, names: list[str]):
        self.hashes, self.items, self.num_ngrams, self.ngram_sizes, self.names = (
            hashes,
            items,
            runs,
            sizes,
            names,
        )

    @classmethod
    def build(cls, texts: Iterable[tuple[str, str]], rule: str) -> "EvaluationIndex":
        """From (name, text) pairs. Items of fewer than 8 words are too common to be looked for."""
        hashes, items, runs, names = [], [], [], []
        sizes: set[int] = set()
        for name, text in texts:
            numbers = _word_hashes(text)
            if len(numbers) < MIN_ITEM_WORDS:
                continue
            size = min(NGRAM_SIZES[rule], len(numbers))
            sizes.add(size)
            found = numpy.unique(ngram_hashes(numbers, size))
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
                file,
                hashes=self.hashes,
                items=self.items,
                runs=self.num_ngrams,
                sizes=self.ngram_sizes,
                names=names,
            )

    @classmethod
    def load(cls, path: Path) -> "EvaluationIndex":
        with numpy.load(path, allow_pickle=False) as file:
            return cls(file["hashes"], file["items"], file["runs"], file["sizes"], file["names"].tolist())


def contamination_filter(index: EvaluationIndex, rule: str, hits: list[str]) -> Callable[[str], str | None]:
    """A judge: the reason names the evaluation set; the item that a document holds is appended to `hits`."""

    def record_hit(item: int) -> str:
        hits.append(index.names[item])
        return index.names[item].partition("/")[0]

    def drop_reason(text: str) -> str | None:
        numbers = _word_hashes(text)
        for size in index.ngram_sizes.tolist():
            found = numpy.unique(ngram_hashes(numbers, size))
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
                return record_hit(int(items.min()))
            counts = numpy.bincount(items, minlength=len(index.num_ngrams))
            full = numpy.flatnonzero(counts >= MIN_ITEM_OVERLAP * index.num_ngrams)
            if len(full):
                return record_hit(int(full[0]))
        return None

    return drop_reason


def _word_hashes(text: str) -> Keys:
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
