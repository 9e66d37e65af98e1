"""A text as a row of numbers: equal words have equal numbers, so that runs of words can be compared by
arithmetic.
"""

import numpy
from numpy.typing import NDArray

GOLDEN_GAMMA = numpy.uint64(0x9E3779B97F4A7C15)
"""An odd constant (2**64 / golden ratio) whose multiples are spread over all 64 bits."""


def word_ids(words: list[str]) -> NDArray[numpy.uint64]:
    """Words (N) -> numbers in order of first appearance (N). Comparable within one text only."""
    known = {word: number for number, word in enumerate(dict.fromkeys(words))}
    return numpy.fromiter(map(known.__getitem__, words), dtype=numpy.uint64, count=len(words))


def ngram_hashes(numbers: NDArray[numpy.uint64], length: int) -> NDArray[numpy.uint64]:
    """Numbers (N) -> one hash for each run of `length` of them (N - length + 1, or none)."""
    count = len(numbers) - length + 1
    if count <= 0:
        return numpy.zeros(0, dtype=numpy.uint64)
    mixed = splitmix64(numbers)
    total = numpy.zeros(count, dtype=numpy.uint64)
    for offset in range(length):
        total = total * GOLDEN_GAMMA + mixed[offset : offset + count]
    return splitmix64(total)


def splitmix64(values: NDArray[numpy.uint64]) -> NDArray[numpy.uint64]:
    """Spread values over 64 bits (the finalizer of SplitMix64, Steele et al. 2014); one to one."""
    values = values + GOLDEN_GAMMA
    values = (values ^ (values >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
    return values ^ (values >> numpy.uint64(31))
