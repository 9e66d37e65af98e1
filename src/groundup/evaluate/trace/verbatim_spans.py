"""The longest spans of a text that stand word for word in the training text.

A span is maximal: it stands there, and with one token more on either side it does not (or another span begins). Its ends are
ends of words, so that half a word does not count. Tokens of a word differ with the space before it, and a text may stand in
the middle of a training sentence: the text is read both as it is and with a space before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groundup.data.clean.ngrams import UNSPACED
from groundup.data.decontaminate import count_words
from groundup.evaluate.trace.suffix_array import SuffixArray
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.long_texts import encode_text

MAX_OVERLAP = 0.5
"""Of the shorter one of two spans, in characters: else only the longer one is kept."""
FIRST_WINDOW = 32
"""Tokens."""


@dataclass(frozen=True)
class VerbatimSpan:
    """text[begin:end] of `words` words, which stands `count` times in the training text as the tokens `ids`."""

    begin: int
    end: int
    words: int
    ids: tuple[int, ...]
    count: int


def find_spans(index: SuffixArray, tokenizer: Tokenizer, text: str, min_words: int) -> list[VerbatimSpan]:
    """The maximal spans of `text` with at least `min_words` words, longest first; of two that overlap much, the longer."""
    found = [
        span
        for shift in ((0,) if text[:1].isspace() else (0, 1))
        for span in _spans_of_encoding(index, tokenizer, text, shift, min_words)
    ]
    found.sort(key=lambda span: (span.begin - span.end, span.begin))
    kept: list[VerbatimSpan] = []
    for span in found:
        if all(_overlap(span, other) <= MAX_OVERLAP * (span.end - span.begin) for other in kept):
            kept.append(span)
    return kept


def covered_fraction(spans: Sequence[VerbatimSpan], text: str) -> float:
    """The fraction of the characters of `text` that are in a span."""
    covered = bytearray(len(text))
    for span in spans:
        covered[span.begin : span.end] = b"\1" * (span.end - span.begin)
    return sum(covered) / max(1, len(text))


def match_lengths(index: SuffixArray, ids: Sequence[int]) -> list[int]:
    """For each position of `ids`, the number of tokens from there that stand in the training text (matching statistics).

    Where a match of n tokens begins, one of at least n - 1 begins at the next token.
    """
    text, lengths = np.asarray(ids), list[int]()
    for begin in range(len(text)):
        at_least = lengths[-1] - 1 if lengths else 0
        if begin + at_least >= len(text):  # the match before reaches the end
            lengths.append(len(text) - begin)
        else:
            lengths.append(_longest_match(index, text[begin:], at_least))
    return lengths


def _longest_match(index: SuffixArray, ids: NDArray[np.integer], at_least: int) -> int:
    """Searches for few tokens first: the time of a search grows with their number, and most matches are short."""
    window = max(FIRST_WINDOW, 2 * at_least)
    while (found := index.longest_prefix(ids[:window])) == window < len(ids):
        window *= 2
    return found


def _spans_of_encoding(
    index: SuffixArray, tokenizer: Tokenizer, text: str, shift: int, min_words: int
) -> list[VerbatimSpan]:
    """Of the tokens of the text after `shift` spaces."""
    encoding = encode_text(tokenizer.backend, " " * shift + text, add_special_tokens=False)
    ids = encoding.ids
    bounds = [(max(0, begin - shift), max(0, end - shift)) for begin, end in encoding.offsets]
    spans, reached = [], 0
    for first, length in enumerate(match_lengths(index, ids)):
        last = first + length
        if last <= reached:
            continue  # within the span before
        reached = last
        begin, end = _trim_to_words(text, bounds, first, last)
        if begin == end:
            continue
        start, stop = bounds[begin][0], bounds[end - 1][1]
        if (words := count_words(text[start:stop])) >= min_words:
            part = tuple(ids[begin:end])
            spans.append(VerbatimSpan(start, stop, words, part, index.count(part)))
    return spans


def _trim_to_words(text: str, bounds: Sequence[tuple[int, int]], first: int, last: int) -> tuple[int, int]:
    """The tokens first to last without parts of words at either end."""
    while first < last and not _is_word_boundary(text, bounds[first][0]):
        first += 1
    while last > first and not _is_word_boundary(text, bounds[last - 1][1]):
        last -= 1
    return first, last


def _is_word_boundary(text: str, position: int) -> bool:
    """Whether no word goes on at `position`; in scripts without spaces between words a word may end anywhere."""
    around = text[max(0, position - 1) : position + 1]
    return len(around) < 2 or position == 0 or not around.isalnum() or UNSPACED.search(around) is not None


def _overlap(first: VerbatimSpan, second: VerbatimSpan) -> int:
    return max(0, min(first.end, second.end) - max(first.begin, second.begin))
