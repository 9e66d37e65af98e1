"""Gopher's rules of repetition. Source: Rae et al. 2021, arXiv:2112.11446, table A1.

The rules ask which share of the characters stands in what was said before. Counting every run of 5 to 10
words is slow, and needless for most texts: all that a longer run repeats, its runs of 5 repeat as well, so
their union bounds all six shares.
"""

import re
from collections.abc import Callable

import numpy
from numpy.typing import NDArray

from groundup.data.clean.ngrams import ngram_hashes, word_ids
from groundup.recipe.data_config import GopherRepetitionConfig

WordIds = NDArray[numpy.uint64]
Lengths = NDArray[numpy.int64]

PARAGRAPHS = re.compile(r"\n{2,}")


def gopher_repetition_filter(settings: GopherRepetitionConfig) -> Callable[[str], str | None]:
    """A judge with the thresholds of `settings`; its answer names the first rule that a text breaks."""
    tops = tuple(zip((2, 3, 4), settings.max_top_ngram_ratios, strict=True))
    repeats = tuple(zip((5, 6, 7, 8, 9, 10), settings.max_duplicate_ngram_ratios, strict=True))

    def drop_reason(text: str) -> str | None:
        text = text.strip()
        if not text:
            return None
        lines = [line for line in text.split("\n") if line]
        for name, parts in (("paragraphs", PARAGRAPHS.split(text)), ("lines", lines)):
            count, characters = count_repeated(parts)
            if count / len(parts) > settings.max_duplicate_lines_ratio:
                return f"repeated_{name}"
            if characters / len(text) > settings.max_duplicate_line_characters_ratio:
                return f"repeated_{name}_characters"
        words = text.split()
        numbers = word_ids(words)
        lengths = numpy.fromiter(map(len, words), dtype=numpy.int64, count=len(words))
        most = top_bound(numbers, lengths)
        for n, limit in tops:
            if n * most > limit * len(text) and top_characters(numbers, lengths, n) / len(text) > limit:
                return f"top_{n}_gram"
        places = repeated_positions(ngram_hashes(numbers, repeats[0][0]))
        if repeated_bound(places, lengths, repeats[0][0]) / len(text) <= min(limit for _, limit in repeats):
            return None
        for n, limit in repeats:
            if repeated_characters(numbers, lengths, places, n) / len(text) > limit:
                return f"repeated_{n}_grams"
        return None

    return drop_reason


def count_repeated(parts: list[str]) -> tuple[int, int]:
    """How many parts were there before, and their characters."""
    distinct = set(parts)
    return len(parts) - len(distinct), sum(map(len, parts)) - sum(map(len, distinct))


def top_bound(word_ids: WordIds, lengths: Lengths) -> int:
    """n times this is no less than `top_characters` for n: a run is no more frequent than each of its words, and
    takes a space for each.
    """
    if len(word_ids) == 0:
        return 0
    counts = numpy.bincount(word_ids.astype(numpy.int64))
    return int((counts[word_ids] * (lengths + 1)).max())


def top_characters(word_ids: WordIds, lengths: Lengths, n: int) -> int:
    """Characters (spaces within included) of all occurrences of the most frequent run of n words; of several,
    the first.
    """
    hashes = ngram_hashes(word_ids, n)
    if len(hashes) == 0:
        return 0
    _, first, counts = numpy.unique(hashes, return_index=True, return_counts=True)
    most = int(counts.max())
    position = int(first[counts == most].min())
    return most * (int(lengths[position : position + n].sum()) + n - 1)


def repeated_positions(hashes: NDArray[numpy.uint64]) -> Lengths:
    """Places of all hashes that occur more than once, in order."""
    ordered = numpy.sort(hashes)
    doubles = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(doubles) == 0:
        return numpy.zeros(0, dtype=numpy.int64)
    nearest = numpy.minimum(numpy.searchsorted(doubles, hashes), len(doubles) - 1)
    return numpy.flatnonzero(doubles[nearest] == hashes)


def repeated_bound(positions: Lengths, lengths: Lengths, n: int) -> int:
    """Characters of all words in runs of n words that occur more than once, which begin at `places`: no less than
    `repeated_characters` for n or more.
    """
    covered = numpy.zeros(len(lengths), dtype=bool)
    for offset in range(n):
        covered[positions + offset] = True
    return int(lengths[covered].sum())


def repeated_characters(word_ids: WordIds, lengths: Lengths, positions: Lengths, n: int) -> int:
    """Characters of the runs of n words that occurred before, none counted twice: after a hit the search goes
    on behind it. `places`: where such runs may be.
    """
    hashes = ngram_hashes(word_ids, n)
    positions = positions[positions < len(hashes)]
    ends = numpy.concatenate([[0], numpy.cumsum(lengths)])
    seen: set[int] = set()
    characters = free = 0
    sizes = (ends[positions + n] - ends[positions]).tolist()
    for place, run, size in zip(positions.tolist(), hashes[positions].tolist(), sizes, strict=True):
        if place < free:
            continue
        if run in seen:
            characters += size
            free = place + n
        else:
            seen.add(run)
    return characters
