"""Sequence order: shuffling and source mixing as pure functions of (seed, epoch, index), without stored permutations."""

from functools import lru_cache

import numpy as np

from groundup.data.stable_hash import splitmix64

FEISTEL_ROUNDS = 6


def feistel_permutation(indices: np.ndarray, size: int, seed: int, epoch: int) -> np.ndarray:
    """A random permutation of 0 .. size-1, evaluated at `indices`; int64.

    A Feistel network over an even number of bits is a permutation for any round function (Luby and Rackoff 1988). Values
    beyond `size` go through it again until they are inside (cycle walking, Black and Rogaway 2002): fewer than four passes
    on average.
    """
    half = np.uint64(max(1, -(-(size - 1).bit_length() // 2)))
    mask = (np.uint64(1) << half) - np.uint64(1)
    values = indices.astype(np.uint64)
    outside = np.arange(len(values))
    while len(outside):
        left, right = values[outside] >> half, values[outside] & mask
        for key in _keys(seed, epoch):
            left, right = right, left ^ (splitmix64(right ^ key) & mask)
        values[outside] = (left << half) | right
        outside = outside[values[outside] >= size]
    return values.astype(np.int64)


@lru_cache(maxsize=64)
def _keys(seed: int, epoch: int) -> np.ndarray:
    return np.random.SeedSequence((seed, epoch)).generate_state(FEISTEL_ROUNDS, np.uint64)


class SourceMixture:
    """Sequences of several sources in given ratios.

    In every period of PERIOD sequences, each source has its exact quota, in a random order that is the same in each period.
    The index of a sequence thus determines its source and its index in that source.
    """

    PERIOD = 4096

    def __init__(self, weights: list[float], seed: int):
        ratios = np.asarray(weights, dtype=np.float64)
        if len(ratios) == 0 or not np.all(np.isfinite(ratios)) or np.any(ratios < 0) or ratios.sum() <= 0:
            raise ValueError(f"weights {weights}: expected numbers of at least 0, and one above 0")
        exact = ratios / ratios.sum() * self.PERIOD
        self.quota = np.floor(exact).astype(np.int64)
        short = self.PERIOD - int(self.quota.sum())
        self.quota[np.argsort(self.quota - exact, kind="stable")[:short]] += 1  # largest remainders
        in_order = np.repeat(np.arange(len(ratios)), self.quota)
        self._source = in_order[feistel_permutation(np.arange(self.PERIOD), self.PERIOD, seed, 0)]
        self._before = np.zeros(self.PERIOD, dtype=np.int64)
        for source in range(len(ratios)):
            positions = np.flatnonzero(self._source == source)
            self._before[positions] = np.arange(len(positions))

    def source_and_index(self, sequence_indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The source of each sequence, and the number of sequences of that source before it."""
        periods, positions = np.divmod(sequence_indices, self.PERIOD)
        sources = self._source[positions]
        return sources, periods * self.quota[sources] + self._before[positions]

    def counts(self, count: int) -> np.ndarray:
        """The number of sequences from each source among the first `count`."""
        periods, remainder = divmod(count, self.PERIOD)
        return periods * self.quota + np.bincount(self._source[:remainder], minlength=len(self.quota))
