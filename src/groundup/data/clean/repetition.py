"""Gopher's rules of repetition. Source: Rae et al. 2021, arXiv:2112.11446, table A1.

The rules ask which share of the characters stands in what was said before. Counting every run of 5 to 10
words is slow, and needless for most texts: all that a longer run repeats, its runs of 5 repeat as well, so
their union bounds all six shares.
"""

import re
from collections.abc import Callable

import numpy
from numpy.typing import NDArray

from groundup.data.clean.words import run_hashes, word_numbers
from groundup.recipe.data import GopherRepetition

Numbers = NDArray[numpy.uint64]
Lengths = NDArray[numpy.int64]

PARAGRAPHS = re.compile(r"\n{2,}")


def repetition_rule(settings: GopherRepetition) -> Callable[[str], str | None]:
    """A judge with the thresholds of `settings`; its answer names the first rule that a text breaks."""
    tops = tuple(zip((2, 3, 4), settings.max_top_ngrams, strict=True))
    repeats = tuple(zip((5, 6, 7, 8, 9, 10), settings.max_repeated_ngrams, strict=True))

    def judge(text: str) -> str | None:
        text = text.strip()
        if not text:
            return None
        lines = [line for line in text.split("\n") if line]
        for name, parts in (("paragraphs", PARAGRAPHS.split(text)), ("lines", lines)):
            count, characters = repeated(parts)
            if count / len(parts) > settings.max_repeated_lines:
                return f"repeated_{name}"
            if characters / len(text) > settings.max_repeated_line_characters:
                return f"repeated_{name}_characters"
        words = text.split()
        numbers = word_numbers(words)
        lengths = numpy.fromiter(map(len, words), dtype=numpy.int64, count=len(words))
        most = top_bound(numbers, lengths)
        for n, limit in tops:
            if n * most > limit * len(text) and top_characters(numbers, lengths, n) / len(text) > limit:
                return f"top_{n}_gram"
        places = repeating(run_hashes(numbers, repeats[0][0]))
        if repeated_bound(places, lengths, repeats[0][0]) / len(text) <= min(limit for _, limit in repeats):
            return None
        for n, limit in repeats:
            if repeated_characters(numbers, lengths, places, n) / len(text) > limit:
                return f"repeated_{n}_grams"
        return None

    return judge


def repeated(parts: list[str]) -> tuple[int, int]:
    """How many parts were there before, and their characters."""
    distinct = set(parts)
    return len(parts) - len(distinct), sum(map(len, parts)) - sum(map(len, distinct))


def top_bound(numbers: Numbers, lengths: Lengths) -> int:
    """n times this is no less than `top_characters` for n: a run is no more frequent than each of its words, and
    takes a space for each.
    """
    if len(numbers) == 0:
        return 0
    counts = numpy.bincount(numbers.astype(numpy.int64))
    return int((counts[numbers] * (lengths + 1)).max())


def top_characters(numbers: Numbers, lengths: Lengths, n: int) -> int:
    """Characters (spaces within included) of all occurrences of the most frequent run of n words; of several,
    the first.
    """
    hashes = run_hashes(numbers, n)
    if len(hashes) == 0:
        return 0
    _, first, counts = numpy.unique(hashes, return_index=True, return_counts=True)
    most = int(counts.max())
    position = int(first[counts == most].min())
    return most * (int(lengths[position : position + n].sum()) + n - 1)


def repeating(hashes: NDArray[numpy.uint64]) -> Lengths:
    """Places of all hashes that occur more than once, in order."""
    ordered = numpy.sort(hashes)
    doubles = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(doubles) == 0:
        return numpy.zeros(0, dtype=numpy.int64)
    nearest = numpy.minimum(numpy.searchsorted(doubles, hashes), len(doubles) - 1)
    return numpy.flatnonzero(doubles[nearest] == hashes)


def repeated_bound(places: Lengths, lengths: Lengths, n: int) -> int:
    """Characters of all words in runs of n words that occur more than once, which begin at `places`: no less than
    `repeated_characters` for n or more.
    """
    covered = numpy.zeros(len(lengths), dtype=bool)
    for offset in range(n):
        covered[places + offset] = True
    return int(lengths[covered].sum())


def repeated_characters(numbers: Numbers, lengths: Lengths, places: Lengths, n: int) -> int:
    """Characters of the runs of n words that occurred before, none counted twice: after a hit the search goes
    on behind it. `places`: where such runs may be.
    """
    hashes = run_hashes(numbers, n)
    places = places[places < len(hashes)]
    ends = numpy.concatenate([[0], numpy.cumsum(lengths)])
    seen: set[int] = set()
    characters = free = 0
    sizes = (ends[places + n] - ends[places]).tolist()
    for place, run, size in zip(places.tolist(), hashes[places].tolist(), sizes, strict=True):
        if place < free:
            continue
        if run in seen:
            characters += size
            free = place + n
        else:
            seen.add(run)
    return characters
