"""Which documents are the same? Union-find over pairs; the first document of a cluster stands for it."""

import numpy
from numpy.typing import NDArray

Integers = NDArray[numpy.int64]


class Clusters:
    """Disjoint sets of the numbers 0 to N - 1, in 8 bytes for each. The smallest number of a set is its root."""

    def __init__(self, count: int):
        self.parent: Integers = numpy.arange(count, dtype=numpy.int64)

    def root(self, number: int) -> int:
        """The first member of the set that `number` is in; the way there is halved for the next time."""
        parent = self.parent
        while (up := int(parent[number])) != number:
            parent[number] = parent[up]
            number = int(parent[number])
        return number

    def join(self, firsts: Integers, others: Integers) -> None:
        """Make one set of the two that hold each pair (E pairs)."""
        for a, b in zip(firsts.tolist(), others.tolist(), strict=True):
            a, b = self.root(a), self.root(b)
            if a != b:
                self.parent[max(a, b)] = min(a, b)

    def roots(self) -> Integers:
        """The root of every number (N)."""
        parent = self.parent
        while True:
            up = parent[parent]
            if numpy.array_equal(up, parent):
                return parent
            parent = up


def repeated(numbers: Integers, keys: NDArray[numpy.uint64]) -> tuple[Integers, Integers]:
    """Pairs (first, other) of numbers with equal keys: for each key that repeats, its smallest number with
    every other.

    Takes about 40 bytes for each of the N rows while it works.
    """
    order = numpy.lexsort((numbers, keys))
    numbers, keys = numbers[order], keys[order]
    starts = numpy.ones(len(keys), dtype=bool)
    starts[1:] = keys[1:] != keys[:-1]
    first = (
        numbers[numpy.maximum.accumulate(numpy.where(starts, numpy.arange(len(keys)), 0))]
        if len(keys)
        else numbers
    )
    return first[~starts], numbers[~starts]


ROW_BYTES = 40
"""What `repeated` holds for a row."""


def passes(rows: int, limit_bytes: float) -> int:
    """Into how many parts the keys must be cut for one to fit into the limit."""
    return max(1, -(-int(rows * ROW_BYTES) // max(int(limit_bytes), 1)))
