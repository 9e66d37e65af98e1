"""Which text is held out for validation: whole documents, or, of sources with few documents, evenly spaced spans.

A span is a run of whole paragraphs. Spans lie at equal distances over the text of a source (systematic sampling), so that
each part of it is represented; training text that repeats a paragraph of a span is removed.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import groupby, pairwise
from typing import Any

from groundup.data.clean.cleaning_steps import utf8_bytes
from groundup.data.stable_hash import hash_fraction

MIN_DOCUMENTS = 20
"""Held-out documents or spans of a source, at least: an interval over fewer means little."""
MIN_BYTES = 100_000
"""Held-out text of a corpus, at least, as long as it is no more than MAX_FRACTION of it."""
MAX_FRACTION = 0.1
MIN_SPAN_BYTES, MAX_SPAN_BYTES = 250, 8_000
MAX_SPAN_FRACTION = 0.25
"""Of a source that is too small for a span by the fraction."""
MAX_PARAGRAPH_BYTES = 2_000
"""Longer paragraphs are cut, if spans are shorter; in sources of few spans, those longer than a span."""

PARAGRAPH_END = re.compile(r"\n\s*\n")
SMALLER_ENDS = tuple(map(re.compile, (r"\n", r"(?<=[.!?。！？])\s*", r"\s")))
"""Ends of lines, sentences, words."""


@dataclass(frozen=True)
class SourceSplit:
    """How the validation text of one source is chosen.

    Attributes:
        fraction: of the source's text.
        span_bytes: length of a span; None: whole documents, chosen by a hash of their texts.
        max_paragraph_bytes: longer paragraphs are cut.
    """

    fraction: float
    span_bytes: int | None = None
    max_paragraph_bytes: int = MAX_PARAGRAPH_BYTES

    def holds_out(self, document_key: int) -> bool:
        """Whether a whole document belongs to validation."""
        return self.span_bytes is None and hash_fraction(f"split {document_key}") < self.fraction

    def segments(self, text: str, offset: int) -> Iterator[tuple[str, list[str]]]:
        """("train" or "validation", paragraphs) of a document in order; `offset`: bytes of the source before it."""
        assert self.span_bytes is not None
        distance = self.span_bytes / self.fraction
        pieces = []
        for piece in split_paragraphs(text, self.max_paragraph_bytes):
            position = (offset + (self.span_bytes - distance) / 2) % distance
            pieces.append(("validation" if position < self.span_bytes else "train", piece))
            offset += utf8_bytes(piece)
        for split, group in groupby(pieces, key=lambda pair: pair[0]):
            yield split, [piece for _, piece in group]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def plan_source_splits(
    fraction: float, documents: Mapping[str, int], sizes: Mapping[str, int]
) -> dict[str, SourceSplit]:
    """The split of each source, from its documents and bytes after deduplication.

    `fraction` is raised for a small corpus: to MIN_BYTES of validation text, at most to MAX_FRACTION. Every source gets at
    least one span, of MAX_SPAN_FRACTION of its text at most.

    >>> plan_source_splits(0.01, {"web": 5000, "books": 48}, {"web": 20_000_000, "books": 6_000_000})["books"]
    SourceSplit(fraction=0.01, span_bytes=3000, max_paragraph_bytes=3000)
    """
    if fraction == 0:
        return {name: SourceSplit(0.0) for name in sizes}
    total = sum(sizes.values())
    fraction = max(fraction, min(MAX_FRACTION, MIN_BYTES / max(total, 1)))
    splits = {}
    for name, size in sizes.items():
        span_bytes = int(fraction * size / MIN_DOCUMENTS)
        span_bytes = min(max(span_bytes, MIN_SPAN_BYTES), MAX_SPAN_BYTES)
        if fraction * documents[name] >= MIN_DOCUMENTS:
            splits[name] = SourceSplit(fraction)
            continue
        of_source = max(fraction, min(span_bytes / max(size, 1), MAX_SPAN_FRACTION))  # at least one span
        is_long = of_source * size >= MIN_DOCUMENTS * span_bytes
        longest = max(span_bytes, MAX_PARAGRAPH_BYTES) if is_long else span_bytes
        splits[name] = SourceSplit(of_source, span_bytes, longest)
    return splits


def split_paragraphs(text: str, limit: int) -> list[str]:
    """Paragraphs; those of more than `limit` bytes are cut into lines, sentences, words. Joined they are `text`."""
    return [piece for paragraph in _cut(PARAGRAPH_END, text) for piece in _cut_longer(paragraph, limit, SMALLER_ENDS)]


def _cut_longer(text: str, limit: int, boundaries: tuple[re.Pattern[str], ...]) -> list[str]:
    if utf8_bytes(text) <= limit:
        return [text]
    if not boundaries:
        return [text[start : start + limit // 4] for start in range(0, len(text), limit // 4)]
    return [piece for part in _cut(boundaries[0], text) for piece in _cut_longer(part, limit, boundaries[1:])]


def _cut(boundary: re.Pattern[str], text: str) -> list[str]:
    ends = sorted({0, *(match.end() for match in boundary.finditer(text)), len(text)})
    return [text[start:end] for start, end in pairwise(ends)]
