"""Which documents are the same? Union-find over pairs; the first document of a cluster stands for it."""


class Clusters:
    """Disjoint sets of ordinals; only ordinals that were joined take memory. The smallest ordinal is the root."""

    def __init__(self) -> None:
        self.parent: dict[int, int] = {}

    def root(self, ordinal: int) -> int:
        """The first document of the cluster that `ordinal` is in."""
        path = []
        while (parent := self.parent.get(ordinal, ordinal)) != ordinal:
            path.append(ordinal)
            ordinal = parent
        for passed in path:
            self.parent[passed] = ordinal
        return ordinal

    def join(self, a: int, b: int) -> None:
        """Make one cluster of the two that hold `a` and `b`."""
        a, b = sorted((self.root(a), self.root(b)))
        if a != b:
            self.parent[b] = a

    def others(self) -> dict[int, int]:
        """Every document that is not the first of its cluster, with the one that is."""
        return {ordinal: root for ordinal in sorted(self.parent) if (root := self.root(ordinal)) != ordinal}
