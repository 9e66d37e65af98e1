"""Word n-grams as 64-bit hashes (numpy); in scripts without spaces each character counts as a word."""

import re
from collections.abc import Sequence

import numpy
from numpy.typing import NDArray

from groundup.data.stable_hash import hash_text, splitmix64

MULTIPLIER = numpy.uint64(0x9E3779B97F4A7C15)
"""Odd constant of the polynomial hash (2**64 / golden ratio)."""


UNSPACED_RANGES = ((0x0E00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3005, 0x3005), (0x3040, 0x30FF), (0x3400, 0x9FFF),
                   (0x20000, 0x3FFFF))  # fmt: skip
"""Thai, Lao, Tibetan, Burmese, Khmer, kana and Chinese characters."""

UNSPACED = re.compile("[" + "".join(f"{chr(first)}-{chr(last)}" for first, last in UNSPACED_RANGES) + "]")


def separate_characters(text: str) -> str:
    """The text with a space on both sides of each character of a script without spaces.

    >>> separate_characters("GPT是什么? ok")
    'GPT 是 什 么 ? ok'
    """
    if text.isascii() or not UNSPACED.search(text):
        return text
    codes = numpy.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=numpy.uint32)
    unspaced = numpy.zeros(len(codes), dtype=bool)
    for first, last in UNSPACED_RANGES:
        unspaced |= (codes >= first) & (codes <= last)
    borders = numpy.zeros(len(codes), dtype=numpy.int64)
    borders[1:] = unspaced[1:] | unspaced[:-1]
    positions = numpy.arange(len(codes)) + numpy.cumsum(borders)
    separated = numpy.full(positions[-1] + 1, ord(" "), dtype=numpy.uint32)
    separated[positions] = codes
    return separated.tobytes().decode("utf-32-le", "surrogatepass")


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
