"""Learn merges quickly: keep count of all pairs of neighbours, and after each merge change only what it touched.

The oracle is bpe.py, which counts everything anew for each merge; the result is the same, pair for pair, as that of the
`tokenizers` library's trainer. Each merge is done at all its places at once, by a few operations on arrays.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable, Mapping

import numpy as np

MergePair = tuple[int, int]


class BPETrainer:
    """The distinct pieces of a text, as ids in one row, and the pairs of neighbours in them.

    Args:
        ids: of all pieces, one after the other.
        lengths: ids in each piece; none is 0.
        counts: how often each piece occurs.
        spelling: id -> bytes, for the ids that may be merged.
        first_new_id: of the entries to come; default: behind the highest of `spelling`.
        min_count: pairs that are rarer are not merged.
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
        places = np.arange(len(ids))
        ends = np.cumsum(lengths)
        self._next, self._previous = places + 1, places - 1  # -1: there is none
        self._next[ends - 1] = -1
        self._previous[ends - lengths] = -1
        self._weight = np.repeat(counts.astype(np.int64), lengths)
        self._counts: defaultdict[int, int] = defaultdict(int)  # of each pair, over the whole text
        self._positions: defaultdict[int, list[np.ndarray]] = defaultdict(
            list
        )  # where it was seen; some have passed away
        self._heap: list[tuple[int, int]] = []
        self._add(np.flatnonzero(self._next >= 0))

    def train(self, vocab_size: int, progress: Callable[[], None] = lambda: None) -> list[MergePair]:
        """Merge the most frequent pair until the vocabulary has `vocab_size` entries; returns the merges in order.

        New entries get the following ids; `spelling` grows with them. Stops early when no pair
        is frequent enough. Among equally frequent pairs the one with the smaller ids comes first.
        """
        merges: list[MergePair] = []
        while self._next_id < vocab_size and self._heap:
            minus_count, pair = heapq.heappop(self._heap)
            count = self._counts[pair]
            if count != -minus_count:  # it became rarer since it was put there
                if count >= self._min_count:
                    heapq.heappush(self._heap, (-count, pair))
                continue
            left, right = pair >> 32, pair & 0xFFFFFFFF
            token = self.id_to_bytes[left] + self.id_to_bytes[right]
            id = self._id_of.get(token)
            if id is None:  # else another pair has the same spelling
                id = self._id_of[token] = self._next_id
                self.id_to_bytes[id] = token
                self._next_id += 1
            merges.append((left, right))
            self._merge(pair, id)
            progress()
        return merges

    def _merge(self, pair: int, id: int) -> None:
        """Make one of `pair` wherever it is, from left to right."""
        left = self._find_pair(pair)
        right = self._next[left]
        before, after = self._previous[left], self._next[right]
        touched = np.concatenate((before[before >= 0], left, right[after >= 0]))
        self._subtract(_sorted_unique(touched))
        self._ids[left], self._ids[right] = id, -1
        self._next[left] = after
        self._previous[after[after >= 0]] = left[after >= 0]
        before = self._previous[left]
        made = np.concatenate((before[before >= 0], left[after >= 0]))
        self._add(_sorted_unique(made))

    def _find_pair(self, pair: int) -> np.ndarray:
        """The places where `pair` begins, ascending; of those that overlap, as in "aaa", every second."""
        seen = self._positions.pop(pair)
        places = seen[0] if len(seen) == 1 else _sorted_unique(np.concatenate(seen))
        left, right = pair >> 32, pair & 0xFFFFFFFF
        following = self._next[places]
        there = (self._ids[places] == left) & (following >= 0)
        there &= self._ids[following] == right
        places = places[there]
        if left == right and len(places) > 1:
            follows = np.concatenate((~_TRUE, self._next[places[:-1]] == places[1:]))
            order = np.arange(len(places))
            first = np.maximum.accumulate(np.where(follows, 0, order))
            places = places[(order - first) % 2 == 0]
        return places

    def _add(self, places: np.ndarray) -> None:
        """Count the pairs that begin at `places`."""
        counts, seen, heap = self._counts, self._positions, self._heap
        pairs, weights, places, bounds = self._group_by_pair(places)
        begin = 0
        for pair, weight, end in zip(pairs, weights, bounds, strict=True):
            count = counts[pair] = counts[pair] + weight
            seen[pair].append(places[begin:end])
            if count >= self._min_count:
                heapq.heappush(heap, (-count, pair))
            begin = end

    def _subtract(self, places: np.ndarray) -> None:
        """Count the pairs that begin at `places` no longer."""
        counts = self._counts
        pairs, weights, _, _ = self._group_by_pair(places)
        for pair, weight in zip(pairs, weights, strict=True):
            counts[pair] -= weight

    def _group_by_pair(self, places: np.ndarray) -> tuple[list[int], list[int], np.ndarray, list[int]]:
        """The different pairs that begin at `places`, the weight of each, the places by pair, and where each ends."""
        if len(places) == 0:
            return [], [], places, []
        pairs = (self._ids[places] << 32) | self._ids[self._next[places]]
        order = np.argsort(pairs, kind="stable")
        pairs, places = pairs[order], places[order]
        first = np.flatnonzero(np.concatenate((_TRUE, pairs[1:] != pairs[:-1])))
        weights = np.add.reduceat(self._weight[places], first)
        return pairs[first].tolist(), weights.tolist(), places, [*first[1:].tolist(), len(places)]


_TRUE = np.array([True])


def _sorted_unique(places: np.ndarray) -> np.ndarray:
    """`places` in ascending order, each once."""
    places = np.sort(places)
    if len(places) < 2:
        return places
    return places[np.concatenate((_TRUE, places[1:] != places[:-1]))]
