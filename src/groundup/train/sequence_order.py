"""In which order is the data seen? A pure function of (seed, epoch), for any one place without all the others."""

from functools import lru_cache

import numpy as np

from groundup.data.stable_hash import splitmix64

FEISTEL_ROUNDS = 6


def feistel_permutation(indices: np.ndarray, size: int, seed: int, epoch: int) -> np.ndarray:
    """Where a random permutation of 0 .. size-1 takes `places`, int64.

    A Feistel network on an even number of bits is a permutation whatever its round function (Luby and Rackoff 1988);
    what falls beyond `size` is sent through again until it falls inside (cycle walking, Black and Rogaway 2002),
    which takes fewer than four passes in the mean.
    """
    half = np.uint64(max(1, -(-(size - 1).bit_length() // 2)))
    mask = (np.uint64(1) << half) - np.uint64(1)
    values = indices.astype(np.uint64)
    todo = np.arange(len(values))
    while len(todo):
        left, right = values[todo] >> half, values[todo] & mask
        for key in _keys(seed, epoch):
            left, right = right, left ^ (splitmix64(right ^ key) & mask)
        values[todo] = (left << half) | right
        todo = todo[values[todo] >= size]
    return values.astype(np.int64)


@lru_cache(maxsize=64)
def _keys(seed: int, epoch: int) -> np.ndarray:
    return np.random.SeedSequence((seed, epoch)).generate_state(FEISTEL_ROUNDS, np.uint64)


class SourceMixture:
    """Sequences of several sources in given shares, without copying any of them.

    In every period each source has its exact share of the places, rounded to whole ones, and the places lie in a
    random order that is the same in each period. So the number of a sequence says which source it comes from, and
    how many of that source came before.
    """

    PERIOD = 4096

    def __init__(self, weights: list[float], seed: int):
        shares = np.asarray(weights, dtype=np.float64)
        if len(shares) == 0 or not np.all(np.isfinite(shares)) or np.any(shares < 0) or shares.sum() <= 0:
            raise ValueError(f"weights {weights}: expected numbers of at least 0, and one above 0")
        exact = shares / shares.sum() * self.PERIOD
        self.quota = np.floor(exact).astype(np.int64)
        short = self.PERIOD - int(self.quota.sum())
        self.quota[np.argsort(self.quota - exact, kind="stable")[:short]] += 1  # largest remainders
        in_order = np.repeat(np.arange(len(shares)), self.quota)
        self._source = in_order[feistel_permutation(np.arange(self.PERIOD), self.PERIOD, seed, 0)]
        self._before = np.zeros(self.PERIOD, dtype=np.int64)
        for source in range(len(shares)):
            places = np.flatnonzero(self._source == source)
            self._before[places] = np.arange(len(places))

    def source_and_index(self, sequence_indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each sequence number: its source, and how many sequences of that source came before it."""
        periods, places = np.divmod(sequence_indices, self.PERIOD)
        sources = self._source[places]
        return sources, periods * self.quota[sources] + self._before[places]

    def counts(self, number: int) -> np.ndarray:
        """How many of the sequences before `number` came from each source."""
        periods, place = divmod(number, self.PERIOD)
        return periods * self.quota + np.bincount(self._source[:place], minlength=len(self.quota))
