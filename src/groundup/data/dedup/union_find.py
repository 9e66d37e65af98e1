"""Union-find over document numbers, and pairs of documents with equal keys."""

import numpy
from numpy.typing import NDArray

Integers = NDArray[numpy.int64]
Keys = NDArray[numpy.uint64]
PAIR_BATCH = 1 << 18
"""Pairs converted to Python integers at a time."""


class UnionFind:
    """Disjoint sets of the numbers 0 to N - 1, 8 bytes each. The root of a set is its smallest number."""

    def __init__(self, count: int):
        self.parent: Integers = numpy.arange(count, dtype=numpy.int64)

    def find(self, number: int) -> int:
        """Root of `number`, with path halving."""
        parent = self.parent
        while (up := int(parent[number])) != number:
            parent[number] = parent[up]
            number = int(parent[number])
        return number

    def union(self, firsts: Integers, others: Integers) -> None:
        """Merge the sets of each pair (E pairs)."""
        self.roots()
        for start in range(0, len(firsts), PAIR_BATCH):
            batch = slice(start, start + PAIR_BATCH)
            a, b = self.parent[firsts[batch]], self.parent[others[batch]]
            new = a != b  # most pairs of a later band were merged by an earlier one
            for first, other in zip(a[new].tolist(), b[new].tolist(), strict=True):
                self._union(first, other)

    def _union(self, a: int, b: int) -> None:
        a, b = self.find(a), self.find(b)
        if a != b:
            self.parent[max(a, b)] = min(a, b)

    def roots(self) -> Integers:
        """Root of every number (N); compresses all paths to one step."""
        while True:
            up = self.parent[self.parent]
            if numpy.array_equal(up, self.parent):
                return up
            self.parent = up


def repeated_pairs(numbers: Integers, keys: Keys) -> tuple[Integers, Integers]:
    """Pairs (first, other) with equal keys: the smallest number of each repeated key with every other one.
    `numbers` (N) is ascending.
    """
    order = numpy.argsort(keys, kind="stable")
    keys = keys[order]
    repeats = numpy.flatnonzero(keys[1:] == keys[:-1]) + 1
    begins = numpy.ones(len(repeats), dtype=bool)
    begins[1:] = repeats[1:] != repeats[:-1] + 1
    firsts = (repeats[begins] - 1)[numpy.cumsum(begins) - 1]
    return numbers[order[firsts]], numbers[order[repeats]]
