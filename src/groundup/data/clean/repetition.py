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

PARAGRAPHS = re.compile(r"\n{2,}")
LINES = re.compile(r"\n+")


def repetition_rule(settings: GopherRepetition) -> Callable[[str], str | None]:
    """A judge with the thresholds of `settings`; its answer names the first rule that a text breaks."""
    tops = tuple(zip((2, 3, 4), settings.max_top_ngrams, strict=True))
    repeats = tuple(zip((5, 6, 7, 8, 9, 10), settings.max_repeated_ngrams, strict=True))

    def judge(text: str) -> str | None:
        text = text.strip()
        if not text:
            return None
        for name, parts in (("paragraphs", PARAGRAPHS.split(text)), ("lines", LINES.split(text))):
            count, characters = repeated(parts)
            if count / len(parts) > settings.max_repeated_lines:
                return f"repeated_{name}"
            if characters / len(text) > settings.max_repeated_line_characters:
                return f"repeated_{name}_characters"
        words = text.split()
        numbers = word_numbers(words)
        lengths = numpy.array([len(word) for word in words])
        for n, limit in tops:
            if top_characters(numbers, lengths, n) / len(text) > limit:
                return f"top_{n}_gram"
        if repeated_bound(numbers, lengths, repeats[0][0]) / len(text) <= min(limit for _, limit in repeats):
            return None
        for n, limit in repeats:
            if repeated_characters(words, n) / len(text) > limit:
                return f"repeated_{n}_grams"
        return None

    return judge


def repeated(parts: list[str]) -> tuple[int, int]:
    """How many parts were there before, and their characters."""
    seen: set[str] = set()
    count = characters = 0
    for part in parts:
        if part in seen:
            count += 1
            characters += len(part)
        seen.add(part)
    return count, characters


def top_characters(numbers: NDArray[numpy.uint64], lengths: NDArray[numpy.int64], n: int) -> int:
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


def repeated_bound(numbers: NDArray[numpy.uint64], lengths: NDArray[numpy.int64], n: int) -> int:
    """Characters of all words in runs of n words that occurred before: no less than `repeated_characters` for
    n or more.
    """
    hashes = run_hashes(numbers, n)
    if len(hashes) == 0:
        return 0
    _, first = numpy.unique(hashes, return_index=True)
    again = numpy.ones(len(hashes), dtype=bool)
    again[first] = False
    covered = numpy.zeros(len(lengths), dtype=bool)
    for offset in range(n):
        covered[offset : offset + len(hashes)] |= again
    return int(lengths[covered].sum())


def repeated_characters(words: list[str], n: int) -> int:
    """Characters of the runs of n words that occurred before, none counted twice: after a hit the search goes
    on behind it.
    """
    seen: set[str] = set()
    characters = position = 0
    while position <= len(words) - n:
        run = "".join(words[position : position + n])
        if run in seen:
            characters += len(run)
            position += n
        else:
            seen.add(run)
            position += 1
    return characters
