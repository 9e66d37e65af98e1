"""Which documents are the same? Union-find over pairs; the first document of a cluster stands for it."""

import numpy
from numpy.typing import NDArray

Integers = NDArray[numpy.int64]
Keys = NDArray[numpy.uint64]
PAIR_BATCH = 1 << 18
"""Pairs that are held as Python integers while they are joined."""


class UnionFind:
    """Disjoint sets of the numbers 0 to N - 1, in 8 bytes for each. The smallest number of a set is its root."""

    def __init__(self, count: int):
        self.parent: Integers = numpy.arange(count, dtype=numpy.int64)

    def find(self, number: int) -> int:
        """The first member of the set that `number` is in; the way there is halved for the next time."""
        parent = self.parent
        while (up := int(parent[number])) != number:
            parent[number] = parent[up]
            number = int(parent[number])
        return number

    def union(self, firsts: Integers, others: Integers) -> None:
        """Make one set of the two that hold each pair (E pairs)."""
        self.roots()
        for start in range(0, len(firsts), PAIR_BATCH):
            some = slice(start, start + PAIR_BATCH)
            a, b = self.parent[firsts[some]], self.parent[others[some]]
            new = a != b  # most pairs of a later band were joined by an earlier one
            for first, other in zip(a[new].tolist(), b[new].tolist(), strict=True):
                self._union(first, other)

    def _union(self, a: int, b: int) -> None:
        a, b = self.find(a), self.find(b)
        if a != b:
            self.parent[max(a, b)] = min(a, b)

    def roots(self) -> Integers:
        """The root of every number (N); every way there is one step afterwards."""
        while True:
            up = self.parent[self.parent]
            if numpy.array_equal(up, self.parent):
                return up
            self.parent = up


def repeated_pairs(numbers: Integers, keys: Keys) -> tuple[Integers, Integers]:
    """Pairs (first, other) of numbers with equal keys: for each key that repeats, its smallest number with every
    other. The N numbers ascend.
    """
    order = numpy.argsort(keys, kind="stable")
    keys = keys[order]
    again = numpy.flatnonzero(keys[1:] == keys[:-1]) + 1
    begins = numpy.ones(len(again), dtype=bool)
    begins[1:] = again[1:] != again[:-1] + 1
    firsts = (again[begins] - 1)[numpy.cumsum(begins) - 1]
    return numbers[order[firsts]], numbers[order[again]]
