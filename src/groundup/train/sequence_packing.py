"""How a row of documents becomes sequences of one length: cut as it comes, or packed so that few documents are cut.

Both say, for the number of a sequence, which stretches of the shard it is made of. They keep no copy of the tokens.
"""

from typing import Protocol

import numpy as np

from groundup.artifacts.errors import UserError
from groundup.tokenizer import TokenShard

TokenSpan = tuple[int, int]
"""[begin, end) in a shard's row of tokens."""


class PackedSequences(Protocol):
    """A number of sequences of T tokens, 0 to count - 1."""

    count: int

    def spans(self, index: int) -> list[TokenSpan]:
        """What a sequence is made of, in order; where that is less than T tokens, the rest is padding.

        Another document begins with each run, and at each boundary inside one.
        """
        ...

    def num_repeated(self, index: int) -> int:
        """How many tokens at its begin another sequence teaches already."""
        ...


class ConcatSequences:
    """Cut as it comes: the documents in a row, in windows of T tokens.

    Neighbours share one token, so that every token but the very first is predicted exactly once; the last window ends
    with the row, and what it shares beyond that is not predicted again.

    Args:
        documents: numbers of the documents that make up the row, ascending; default: all of them.
    """

    def __init__(self, shard: TokenShard, length: int, documents: np.ndarray | None = None):
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
                hint="add text, or set a smaller train.sequence_length",
            )
        self.count = max(1, -(-(self._tokens - 1) // (length - 1)))

    def spans(self, index: int) -> list[TokenSpan]:
        begin = self._begin(index)
        if self._segments is None:
            return [(begin, begin + self._length)]
        found: list[TokenSpan] = []
        missing, segment = self._length, int(np.searchsorted(self._ends, begin, side="right"))
        while missing:
            first, last = self._segments[segment].tolist()
            first = max(first, last - (int(self._ends[segment]) - begin))
            found.append((first, min(last, first + missing)))
            size = found[-1][1] - first
            begin, missing, segment = begin + size, missing - size, segment + 1
        return found

    def num_repeated(self, index: int) -> int:
        wanted = index * (self._length - 1)
        begin = self._begin(index)
        return wanted - begin + 1 if begin != wanted else 0

    def _begin(self, index: int) -> int:
        return min(index * (self._length - 1), self._tokens - self._length)


class BestFitSequences:
    """Best fit: whole documents side by side, the longest first, each into the fullest sequence that still has room.

    Only documents longer than T are cut. Sequences end with padding, about one token in a thousand for usual text.
    Ding et al. 2024, "Fewer Truncations Improve Language Modeling", section 3; equal lengths are placed together, as
    in Krell et al. 2021, "Efficient Sequence Packing without Cross-contamination".
    """

    def __init__(self, shard: TokenShard, length: int, documents: np.ndarray | None = None):
        begins, lengths = _document_chunks(shard, length, documents)
        sequence_of, self.count = best_fit(lengths, length)
        order = np.argsort(sequence_of, kind="stable")
        self._begins, self._ends = begins[order], (begins + lengths)[order]
        self._first = np.searchsorted(sequence_of[order], np.arange(self.count + 1))
        if self.count == 0:
            raise UserError(f"{shard.base}: no documents", hint="add text")

    def spans(self, index: int) -> list[TokenSpan]:
        pieces = slice(self._first[index], self._first[index + 1])
        return list(zip(self._begins[pieces].tolist(), self._ends[pieces].tolist(), strict=True))

    def num_repeated(self, index: int) -> int:
        return 0


def best_fit(lengths: np.ndarray, capacity: int) -> tuple[np.ndarray, int]:
    """Pack pieces of 1 .. room tokens into as few sequences of `room` tokens as best-fit-decreasing finds.

    Returns the sequence of each piece, and how many sequences there are.
    """
    sequence_of = np.empty(len(lengths), np.int64)
    order = np.argsort(-lengths, kind="stable")
    sizes, firsts = np.unique(-lengths[order], return_index=True)
    with_room: list[list[np.ndarray]] = [[] for _ in range(capacity + 1)]
    count = 0
    groups = np.split(order, firsts[1:]) if len(order) else []
    for group, size in zip(groups, (-sizes).tolist(), strict=True):
        left = size
        while len(group):
            while left <= capacity and not with_room[left]:
                left += 1
            if left > capacity:
                bins = np.arange(count, count + -(-len(group) // (capacity // size)))
                count += len(bins)
                with_room[capacity].append(bins)
                left = capacity
            bins = with_room[left].pop()
            used, bins = bins[: len(group)], bins[len(group) :]
            if len(bins):
                with_room[left].append(bins)
            sequence_of[group[: len(used)]] = used
            group = group[len(used) :]
            with_room[left - size].append(used)
            if left - size >= size:
                left -= size
    return sequence_of, count


def _document_chunks(
    shard: TokenShard, length: int, documents: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Begin and length of each document, in parts of at most `length` tokens where it is longer."""
    numbers = np.arange(shard.num_documents) if documents is None else documents
    begins, lengths = shard.document_offsets[numbers], shard.document_lengths[numbers].astype(np.int64)
    parts = -(-lengths // length)
    part = np.arange(int(parts.sum())) - np.repeat(np.cumsum(parts) - parts, parts)
    begins, rest = np.repeat(begins, parts) + part * length, np.repeat(lengths, parts) - part * length
    return begins, np.minimum(rest, length)


def _segments(begins: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """[begin, end) in tokens of each run of neighbouring documents (runs, 2)."""
    breaks = np.flatnonzero(np.diff(documents) != 1) + 1
    first = documents[np.concatenate(([0], breaks))] if len(documents) else documents
    last = documents[np.concatenate((breaks - 1, [len(documents) - 1]))] if len(documents) else documents
    return np.stack([begins[first], begins[last + 1]], axis=1)
