"""Word n-grams as 64-bit hashes (numpy)."""

from collections.abc import Sequence

import numpy
from numpy.typing import NDArray

from groundup.data.stable_hash import hash_text, splitmix64

MULTIPLIER = numpy.uint64(0x9E3779B97F4A7C15)
"""Odd constant of the polynomial hash (2**64 / golden ratio)."""


def word_ids(words: Sequence[str]) -> NDArray[numpy.uint64]:
    """Words (N) -> numbers in order of first appearance (N). Comparable within one text only."""
    known = {word: index for index, word in enumerate(dict.fromkeys(words))}
    return numpy.fromiter(map(known.__getitem__, words), dtype=numpy.uint64, count=len(words))


def word_hashes(words: Sequence[str]) -> NDArray[numpy.uint64]:
    """Words (N) -> 64-bit hashes (N), comparable between texts."""
    known = {word: hash_text(word) for word in dict.fromkeys(words)}
    return numpy.array([known[word] for word in words], dtype=numpy.uint64)


def ngram_hashes(words: NDArray[numpy.uint64], size: int) -> NDArray[numpy.uint64]:
    """Word ids or hashes (N) -> one hash per n-gram of `size` words (N - size + 1, or none)."""
    count = len(words) - size + 1
    if count <= 0:
        return numpy.zeros(0, dtype=numpy.uint64)
    mixed = splitmix64(words)
    total = numpy.zeros(count, dtype=numpy.uint64)
    for offset in range(size):
        total = total * MULTIPLIER + mixed[offset : offset + count]
    return splitmix64(total)
