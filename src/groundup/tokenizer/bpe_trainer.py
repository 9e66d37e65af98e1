"""Incremental BPE training: keep the counts of all pairs of neighbours, and update those that each merge changes.

All occurrences of a pair are merged at once, by array operations. The merges equal those of bpe.py, which recounts after
each merge, and of the `tokenizers` library's trainer.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable, Mapping

import numpy as np

MergePair = tuple[int, int]


class BPETrainer:
    """The distinct pretokens of a text, concatenated, and the pairs of neighbours in them.

    Args:
        ids: of all pretokens, concatenated.
        lengths: ids of each pretoken, at least 1.
        counts: occurrences of each pretoken.
        id_to_bytes: the ids that may be merged.
        first_new_id: of the new entries; default: the highest of `id_to_bytes` plus one.
        min_count: rarer pairs are not merged.
    """

    def __init__(
        self,
        ids: np.ndarray,
        lengths: np.ndarray,
        counts: np.ndarray,
        id_to_bytes: Mapping[int, bytes],
        first_new_id: int | None = None,
        min_count: int = 2,
    ):
        self._min_count = min_count
        self._next_id = max(id_to_bytes) + 1 if first_new_id is None else first_new_id
        self.id_to_bytes = dict(id_to_bytes)
        self._id_of = {token: id for id, token in self.id_to_bytes.items()}
        self._ids = ids.astype(np.int64)
        positions = np.arange(len(ids))
        ends = np.cumsum(lengths)
        self._next, self._previous = positions + 1, positions - 1  # -1: none
        self._next[ends - 1] = -1
        self._previous[ends - lengths] = -1
        self._weight = np.repeat(counts.astype(np.int64), lengths)
        self._counts: defaultdict[int, int] = defaultdict(int)  # of each pair
        self._positions: defaultdict[int, list[np.ndarray]] = defaultdict(list)  # of each pair, some outdated
        self._queue: list[tuple[int, int]] = []
        self._add(np.flatnonzero(self._next >= 0))

    def train(self, vocab_size: int, progress: Callable[[], None] = lambda: None) -> list[MergePair]:
        """Merge the most frequent pair until the vocabulary has `vocab_size` entries; returns the merges in order.

        New entries get the next ids and are added to `id_to_bytes`. Stops early when no pair has min_count occurrences.
        Ties go to the pair with the smaller ids.
        """
        merges: list[MergePair] = []
        while self._next_id < vocab_size and self._queue:
            minus_count, pair = heapq.heappop(self._queue)
            count = self._counts[pair]
            if count != -minus_count:  # outdated entry: the pair became rarer
                if count >= self._min_count:
                    heapq.heappush(self._queue, (-count, pair))
                continue
            left, right = pair >> 32, pair & 0xFFFFFFFF
            token = self.id_to_bytes[left] + self.id_to_bytes[right]
            id = self._id_of.get(token)
            if id is None:  # else another pair made the same token
                id = self._id_of[token] = self._next_id
                self.id_to_bytes[id] = token
                self._next_id += 1
            merges.append((left, right))
            self._merge(pair, id)
            progress()
        return merges

    def _merge(self, pair: int, id: int) -> None:
        """Merge all occurrences of `pair`, from left to right."""
        left = self._find_pair(pair)
        right = self._next[left]
        before, after = self._previous[left], self._next[right]
        touched = np.concatenate((before[before >= 0], left, right[after >= 0]))
        self._subtract(_sorted_unique(touched))
        self._ids[left], self._ids[right] = id, -1
        self._next[left] = after
        self._previous[after[after >= 0]] = left[after >= 0]
        before = self._previous[left]
        new_pairs = np.concatenate((before[before >= 0], left[after >= 0]))
        self._add(_sorted_unique(new_pairs))

    def _find_pair(self, pair: int) -> np.ndarray:
        """The positions of `pair`, ascending; every second one of those that overlap, as in "aaa"."""
        arrays = self._positions.pop(pair)
        positions = arrays[0] if len(arrays) == 1 else _sorted_unique(np.concatenate(arrays))
        left, right = pair >> 32, pair & 0xFFFFFFFF
        following = self._next[positions]
        current = (self._ids[positions] == left) & (following >= 0)
        current &= self._ids[following] == right
        positions = positions[current]
        if left == right and len(positions) > 1:
            follows = np.concatenate((~_TRUE, self._next[positions[:-1]] == positions[1:]))
            order = np.arange(len(positions))
            first = np.maximum.accumulate(np.where(follows, 0, order))
            positions = positions[(order - first) % 2 == 0]
        return positions

    def _add(self, positions: np.ndarray) -> None:
        """Add the pairs at `positions` to the counts."""
        counts, queue = self._counts, self._queue
        pairs, weights, positions, bounds = self._group_by_pair(positions)
        begin = 0
        for pair, weight, end in zip(pairs, weights, bounds, strict=True):
            count = counts[pair] = counts[pair] + weight
            self._positions[pair].append(positions[begin:end])
            if count >= self._min_count:
                heapq.heappush(queue, (-count, pair))
            begin = end

    def _subtract(self, positions: np.ndarray) -> None:
        """Subtract the pairs at `positions` from the counts."""
        counts = self._counts
        pairs, weights, _, _ = self._group_by_pair(positions)
        for pair, weight in zip(pairs, weights, strict=True):
            counts[pair] -= weight

    def _group_by_pair(self, positions: np.ndarray) -> tuple[list[int], list[int], np.ndarray, list[int]]:
        """The distinct pairs at `positions`, the weight of each, the positions sorted by pair, and the end of each group."""
        if len(positions) == 0:
            return [], [], positions, []
        pairs = (self._ids[positions] << 32) | self._ids[self._next[positions]]
        order = np.argsort(pairs, kind="stable")
        pairs, positions = pairs[order], positions[order]
        first = np.flatnonzero(np.concatenate((_TRUE, pairs[1:] != pairs[:-1])))
        weights = np.add.reduceat(self._weight[positions], first)
        return pairs[first].tolist(), weights.tolist(), positions, [*first[1:].tolist(), len(positions)]


_TRUE = np.array([True])


def _sorted_unique(positions: np.ndarray) -> np.ndarray:
    """Like np.unique, which is slower on short arrays."""
    positions = np.sort(positions)
    if len(positions) < 2:
        return positions
    return positions[np.concatenate((_TRUE, positions[1:] != positions[:-1]))]
