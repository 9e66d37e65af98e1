"""Equal documents, found by the hash that was stored with each."""

from pathlib import Path

from groundup.data.dedup.clusters import Clusters
from groundup.data.engine import repeats


def exact_duplicates(clean: Path) -> dict[int, int]:
    """Ordinal of each repeated document -> ordinal of the first one with the same text."""
    clusters = Clusters()
    for first, others in repeats(clean, "key"):
        for other in others:
            clusters.join(first, other)
    return clusters.others()
