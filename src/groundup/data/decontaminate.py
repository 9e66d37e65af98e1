"""Decontamination: drop documents that overlap with evaluation sets.

Words are lower-case letters and digits; in scripts without spaces, where each character counts as one, an n-gram is as
many times longer as words are. "13-gram": a document that contains a 13-gram of an item is dropped (Brown
et al. 2020, arXiv:2005.14165, appendix C); items of 8 to 12 words count as one n-gram. "8-gram": a document that
contains 70% of an item's 8-grams is dropped (Chowdhery et al. 2022, arXiv:2204.02311, section 8).
"""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy
from numpy.typing import NDArray

from groundup.data.clean.ngrams import UNSPACED, ngram_hashes, separate_characters, word_hashes
from groundup.data.clean.step_types import FilterFunction

MARKS = "\u0300-\u036f\u0591-\u05bd\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0dff"
WORD = re.compile(rf"[\w{MARKS}{UNSPACED.pattern.strip('[]')}]+")
"""Letters with their vowel signs and accents."""

CHINESE_OR_KANA = re.compile("[\u3005-\u9fff\U00020000-\U0003ffff]")
MIN_ITEM_WORDS = 8
MIN_ITEM_OVERLAP = 0.7
Keys = NDArray[numpy.uint64]
Integers = NDArray[numpy.int64]
NGRAM_SIZES = {"13-gram": 13, "8-gram": 8}


class EvaluationIndex:
    """N-grams of all evaluation items.

    Attributes:
        hashes: n-gram hashes, ascending (R).
        items: item number of each hash (R).
        num_ngrams: distinct n-grams per item (I).
        ngram_sizes: the n-gram sizes that occur.
        names: item names, SET/ITEM (I).
    """

    def __init__(self, hashes: Keys, items: Integers, num_ngrams: Integers, ngram_sizes: Integers, names: list[str]):
        self.hashes, self.items, self.names = hashes, items, names
        self.num_ngrams, self.ngram_sizes = num_ngrams, ngram_sizes

    @classmethod
    def build(cls, texts: Iterable[tuple[str, str]], rule: str) -> "EvaluationIndex":
        """From (name, text) pairs. Items of fewer than 8 words are ignored: they are too common. In Chinese and Japanese two
        characters count as a word, in other scripts without spaces four.
        """
        hashes, items = [numpy.zeros(0, dtype=numpy.uint64)], [numpy.zeros(0, dtype=numpy.int64)]
        num_ngrams, names = [], []
        sizes: set[int] = set()
        for name, text in texts:
            words, length = _text_word_hashes(text), _word_length(text)
            if len(words) < MIN_ITEM_WORDS * length:
                continue
            size = min(NGRAM_SIZES[rule], len(words) // length) * length
            sizes.add(size)
            found = numpy.unique(ngram_hashes(words, size))
            hashes.append(found)
            items.append(numpy.full(len(found), len(names), dtype=numpy.int64))
            num_ngrams.append(len(found))
            names.append(name)
        all_hashes, all_items = numpy.concatenate(hashes), numpy.concatenate(items)
        order = numpy.lexsort((all_items, all_hashes))
        return cls(
            all_hashes[order], all_items[order], numpy.array(num_ngrams, dtype=numpy.int64),
            numpy.array(sorted(sizes), dtype=numpy.int64), names,
        )  # fmt: skip

    def has_items_of(self, name: str) -> bool:
        """Whether the index holds an item of an evaluation set."""
        return any(item.startswith(f"{name}/") for item in self.names)

    def save(self, path: Path) -> None:
        """As .npz, without pickled objects."""
        arrays = {**vars(self), "names": numpy.array(self.names, dtype=numpy.str_)}
        with path.open("wb") as file:
            numpy.savez(file, **arrays)

    @classmethod
    def load(cls, path: Path) -> "EvaluationIndex":
        with numpy.load(path, allow_pickle=False) as file:
            return cls(**{**file, "names": file["names"].tolist()})


def contamination_filter(index: EvaluationIndex, rule: str, hits: list[str]) -> FilterFunction:
    """Filter whose reason is the evaluation set; appends the name of each item found to `hits`."""

    def record_hit(item: int) -> str:
        hits.append(index.names[item])
        return index.names[item].partition("/")[0]

    def drop_reason(text: str) -> str | None:
        words = _text_word_hashes(text)
        is_spaced = text.isascii() or not UNSPACED.search(text)
        for size in index.ngram_sizes.tolist():
            if is_spaced and size > NGRAM_SIZES[rule]:
                break
            found = numpy.unique(ngram_hashes(words, size))
            positions = numpy.searchsorted(index.hashes, found)
            shared = found[index.hashes[numpy.minimum(positions, len(index.hashes) - 1)] == found]
            if len(shared) == 0:
                continue
            starts = numpy.searchsorted(index.hashes, shared)
            stops = numpy.searchsorted(index.hashes, shared, side="right")
            items = numpy.concatenate([index.items[start:stop] for start, stop in zip(starts, stops, strict=True)])
            if rule == "13-gram":
                return record_hit(int(items.min()))
            counts = numpy.bincount(items, minlength=len(index.num_ngrams))
            full = numpy.flatnonzero(counts >= MIN_ITEM_OVERLAP * index.num_ngrams)
            if len(full):
                return record_hit(int(full[0]))
        return None

    return drop_reason


def count_words(text: str) -> int:
    """Words of a text, as in the rules; of scripts without spaces, characters by how many make a word.

    >>> count_words("To be, or not")
    4
    """
    return len(WORD.findall(separate_characters(text.replace("_", " ")))) // _word_length(text)


def _text_word_hashes(text: str) -> Keys:
    return word_hashes(WORD.findall(separate_characters(text.lower().replace("_", " "))))


def _word_length(text: str) -> int:
    """Characters of a word if most of the text is in a script without spaces, else 1."""
    unspaced = len(UNSPACED.findall(text))
    if 2 * unspaced <= sum(map(str.isalnum, text)):
        return 1
    return 2 if 2 * len(CHINESE_OR_KANA.findall(text)) > unspaced else 4
