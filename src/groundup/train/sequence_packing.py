"""Sequence packing: documents to sequences of one length, concatenated or best-fit packed.

Both map the index of a sequence to token spans of the shard, without a copy of the tokens.
"""

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np

from groundup.artifacts.errors import UserError

TokenSpan = tuple[int, int]
"""[begin, end) in the tokens of a shard."""


class TokenSource(Protocol):
    """The interface of a TokenShard that batches are made from; TokenArray has it too."""

    base: str
    num_tokens: int
    num_documents: int
    document_lengths: np.ndarray
    vocab_size: int
    end_of_text: int
    sources: Any
    document_sources: np.ndarray

    @property
    def document_offsets(self) -> np.ndarray: ...
    def fetch(self, ranges: Iterable[TokenSpan]) -> None: ...
    def read(self, begin: int, end: int) -> np.ndarray: ...
    def documents_in_range(self, begin: int, end: int) -> tuple[slice, np.ndarray]: ...


class TokenArray:
    """Token ids in memory. Each `end_of_text` ends a document; None: a single document."""

    def __init__(self, ids: Iterable[int] | np.ndarray, end_of_text: int | None = None):
        self.ids = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids), dtype=np.int64)
        self.base, self.num_tokens = "tokens", len(self.ids)
        self.vocab_size = int(self.ids.max(initial=-1)) + 1
        ends = np.append(np.flatnonzero(self.ids[:-1] == end_of_text) + 1, self.num_tokens)
        self.document_offsets = np.append(0, ends)
        self.document_lengths, self.num_documents = np.diff(self.document_offsets), len(ends)
        self.end_of_text = 0 if end_of_text is None else end_of_text
        self.sources, self.document_sources = {"": {}}, np.zeros(len(ends), np.int64)

    def fetch(self, ranges: Iterable[TokenSpan]) -> None:
        """Nothing to fetch."""

    def read(self, begin: int, end: int) -> np.ndarray:
        return self.ids[begin:end]

    def documents_in_range(self, begin: int, end: int) -> tuple[slice, np.ndarray]:
        """The documents that overlap tokens [begin, end), and the number of these tokens in each."""
        first = int(np.searchsorted(self.document_offsets, begin, side="right")) - 1
        last = int(np.searchsorted(self.document_offsets, end))
        return slice(first, last), np.diff(np.clip(self.document_offsets[first : last + 1], begin, end))


class PackedSequences(Protocol):
    """Sequences 0 to count - 1 of T tokens."""

    count: int

    def spans(self, index: int) -> list[TokenSpan]:
        """The token spans of a sequence, in order; if they have fewer than T tokens, the rest is padding.

        A document begins with each span, and at each boundary inside one.
        """
        ...

    def num_repeated(self, index: int) -> int:
        """Number of tokens at the start that have their loss in another sequence."""
        ...


class ConcatSequences:
    """All documents concatenated, in windows of T tokens.

    Neighbours overlap by one token, so every token but the first is predicted exactly once; the last window ends with the
    text, and its further overlap has no loss.

    Args:
        documents: indices of the documents to use, ascending; default: all.
    """

    def __init__(self, shard: TokenSource, length: int, documents: np.ndarray | None = None):
        self._length = length
        self._segments: np.ndarray | None = None
        self._ends = np.empty(0, np.int64)
        self._tokens = shard.num_tokens
        if documents is not None:
            self._segments = _segments(shard.document_offsets, documents)
            self._ends = np.cumsum(self._segments[:, 1] - self._segments[:, 0])
            self._tokens = int(self._ends[-1]) if len(self._ends) else 0
        if self._tokens < length:
            raise UserError(
                f"{shard.base}: {self._tokens} tokens, fewer than one sequence of {length}",
                hint="add text, or a smaller sequence_length (train.sequence_length in a recipe)",
            )
        self.count = max(1, -(-(self._tokens - 1) // (length - 1)))

    def spans(self, index: int) -> list[TokenSpan]:
        begin = self._begin(index)
        if self._segments is None:
            return [(begin, begin + self._length)]
        spans: list[TokenSpan] = []
        remaining, segment = self._length, int(np.searchsorted(self._ends, begin, side="right"))
        while remaining:
            first, last = self._segments[segment].tolist()
            first = max(first, last - (int(self._ends[segment]) - begin))
            spans.append((first, min(last, first + remaining)))
            size = spans[-1][1] - first
            begin, remaining, segment = begin + size, remaining - size, segment + 1
        return spans

    def num_repeated(self, index: int) -> int:
        unshifted = index * (self._length - 1)
        begin = self._begin(index)
        return unshifted - begin + 1 if begin != unshifted else 0

    def _begin(self, index: int) -> int:
        return min(index * (self._length - 1), self._tokens - self._length)


class BestFitSequences:
    """Best-fit packing: longest documents first, each into the fullest sequence with enough space.

    Only documents longer than T are split. Padding is about one token in a thousand for usual text.
    Ding et al. 2024, "Fewer Truncations Improve Language Modeling", section 3; documents of equal length are packed at once,
    as in Krell et al. 2021, "Efficient Sequence Packing without Cross-contamination".
    """

    def __init__(self, shard: TokenSource, length: int, documents: np.ndarray | None = None):
        begins, lengths = _document_chunks(shard, length, documents)
        sequence_of, self.count = best_fit(lengths, length)
        order = np.argsort(sequence_of, kind="stable")
        self._begins, self._ends = begins[order], (begins + lengths)[order]
        self._first = np.searchsorted(sequence_of[order], np.arange(self.count + 1))
        if self.count == 0:
            raise UserError(f"{shard.base}: no documents", hint="add text")

    def spans(self, index: int) -> list[TokenSpan]:
        chunks = slice(self._first[index], self._first[index + 1])
        return list(zip(self._begins[chunks].tolist(), self._ends[chunks].tolist(), strict=True))

    def num_repeated(self, index: int) -> int:
        return 0


def best_fit(lengths: np.ndarray, capacity: int) -> tuple[np.ndarray, int]:
    """Best-fit-decreasing packing of items of 1 .. capacity tokens.

    Returns the sequence index of each item, and the number of sequences.
    """
    sequence_of = np.empty(len(lengths), np.int64)
    order = np.argsort(-lengths, kind="stable")
    sizes, group_starts = np.unique(-lengths[order], return_index=True)
    bins_by_space: list[list[np.ndarray]] = [[] for _ in range(capacity + 1)]
    count = 0
    groups = np.split(order, group_starts[1:]) if len(order) else []
    for group, size in zip(groups, (-sizes).tolist(), strict=True):
        space = size
        while len(group):
            while space <= capacity and not bins_by_space[space]:
                space += 1
            if space > capacity:
                bins = np.arange(count, count + -(-len(group) // (capacity // size)))
                count += len(bins)
                bins_by_space[capacity].append(bins)
                space = capacity
            bins = bins_by_space[space].pop()
            used, bins = bins[: len(group)], bins[len(group) :]
            if len(bins):
                bins_by_space[space].append(bins)
            sequence_of[group[: len(used)]] = used
            group = group[len(used) :]
            bins_by_space[space - size].append(used)
            if space - size >= size:
                space -= size
    return sequence_of, count


def _document_chunks(shard: TokenSource, length: int, documents: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Begin and length of each document, in chunks of at most `length` tokens."""
    indices = np.arange(shard.num_documents) if documents is None else documents
    begins, lengths = shard.document_offsets[indices], shard.document_lengths[indices].astype(np.int64)
    parts = -(-lengths // length)
    part = np.arange(int(parts.sum())) - np.repeat(np.cumsum(parts) - parts, parts)
    begins, remaining = np.repeat(begins, parts) + part * length, np.repeat(lengths, parts) - part * length
    return begins, np.minimum(remaining, length)


def _segments(begins: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """[begin, end) in tokens of each range of consecutive documents (ranges, 2)."""
    breaks = np.flatnonzero(np.diff(documents) != 1) + 1
    first = documents[np.concatenate(([0], breaks))] if len(documents) else documents
    last = documents[np.concatenate((breaks - 1, [len(documents) - 1]))] if len(documents) else documents
    return np.stack([begins[first], begins[last + 1]], axis=1)
