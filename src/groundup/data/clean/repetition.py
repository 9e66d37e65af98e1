"""Gopher repetition filter. Source: Rae et al. 2021, arXiv:2112.11446, table A1.

The rules limit the fraction of characters in repeated lines and n-grams. Counting 5- to 10-grams is slow and rarely
needed: all characters in repeated longer n-grams are also in repeated 5-grams, so those bound all six fractions.
"""

import re

import numpy
from numpy.typing import NDArray

from groundup.data.clean.language_rules import split_words
from groundup.data.clean.ngrams import ngram_hashes, word_ids
from groundup.data.clean.step_types import FilterFunction
from groundup.recipe.data_config import GopherRepetitionConfig

WordIds = NDArray[numpy.uint64]
Lengths = NDArray[numpy.int64]

PARAGRAPHS = re.compile(r"\n{2,}")


def gopher_repetition_filter(config: GopherRepetitionConfig) -> FilterFunction:
    """Filter for prose; the reason is the first rule that a text breaks."""
    tops = tuple(zip((2, 3, 4), config.max_top_ngram_ratios, strict=True))
    repeats = tuple(zip((5, 6, 7, 8, 9, 10), config.max_duplicate_ngram_ratios, strict=True))

    def drop_reason(text: str) -> str | None:
        text = text.strip()
        if not text:
            return None
        lines = [line for line in text.split("\n") if line]
        for name, parts in (("paragraphs", PARAGRAPHS.split(text)), ("lines", lines)):
            count, characters = count_repeated(parts)
            if count / len(parts) > config.max_duplicate_lines_ratio:
                return f"repeated_{name}"
            if characters / len(text) > config.max_duplicate_line_characters_ratio:
                return f"repeated_{name}_characters"
        words = split_words(text)
        ids = word_ids(words)
        lengths = numpy.fromiter(map(len, words), dtype=numpy.int64, count=len(words))
        bound = top_bound(ids, lengths)
        for n, limit in tops:
            if n * bound > limit * len(text) and top_characters(ids, lengths, n) / len(text) > limit:
                return f"top_{n}_gram"
        positions = repeated_positions(ngram_hashes(ids, repeats[0][0]))
        if repeated_bound(positions, lengths, repeats[0][0]) / len(text) <= min(limit for _, limit in repeats):
            return None
        for n, limit in repeats:
            if repeated_characters(ids, lengths, positions, n) / len(text) > limit:
                return f"repeated_{n}_grams"
        return None

    return drop_reason


def count_repeated(parts: list[str]) -> tuple[int, int]:
    """Number of repeated parts, and their characters."""
    distinct = set(parts)
    return len(parts) - len(distinct), sum(map(len, parts)) - sum(map(len, distinct))


def top_bound(word_ids: WordIds, lengths: Lengths) -> int:
    """n times this bounds `top_characters` for n: an n-gram is no more frequent than each of its words."""
    if len(word_ids) == 0:
        return 0
    counts = numpy.bincount(word_ids.astype(numpy.int64))
    return int((counts[word_ids] * (lengths + 1)).max())


def top_characters(word_ids: WordIds, lengths: Lengths, n: int) -> int:
    """Characters (inner spaces included) of all occurrences of the most frequent n-gram; of several, the first."""
    hashes = ngram_hashes(word_ids, n)
    if len(hashes) == 0:
        return 0
    _, first, counts = numpy.unique(hashes, return_index=True, return_counts=True)
    most = int(counts.max())
    position = int(first[counts == most].min())
    return most * (int(lengths[position : position + n].sum()) + n - 1)


def repeated_positions(hashes: NDArray[numpy.uint64]) -> Lengths:
    """Ascending positions of all hashes that occur more than once."""
    ordered = numpy.sort(hashes)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(repeated) == 0:
        return numpy.zeros(0, dtype=numpy.int64)
    nearest = numpy.minimum(numpy.searchsorted(repeated, hashes), len(repeated) - 1)
    return numpy.flatnonzero(repeated[nearest] == hashes)


def repeated_bound(positions: Lengths, lengths: Lengths, n: int) -> int:
    """Characters of all words in repeated n-grams, which start at `positions`. Bounds `repeated_characters` for n
    or more.
    """
    covered = numpy.zeros(len(lengths), dtype=bool)
    for offset in range(n):
        covered[positions + offset] = True
    return int(lengths[covered].sum())


def repeated_characters(word_ids: WordIds, lengths: Lengths, positions: Lengths, n: int) -> int:
    """Characters of the n-grams that occurred before, without overlap: after a hit the search continues behind it.

    `positions`: candidates, ascending.
    """
    hashes = ngram_hashes(word_ids, n)
    positions = positions[positions < len(hashes)]
    ends = numpy.concatenate([[0], numpy.cumsum(lengths)])
    seen: set[int] = set()
    characters = next_free = 0
    sizes = (ends[positions + n] - ends[positions]).tolist()
    for position, ngram, size in zip(positions.tolist(), hashes[positions].tolist(), sizes, strict=True):
        if position < next_free:
            continue
        if ngram in seen:
            characters += size
            next_free = position + n
        else:
            seen.add(ngram)
    return characters
