"""Equal documents, found by the hash that was stored with each."""

from groundup.data.dedup.clusters import Clusters, repeated
from groundup.data.engine import Table


def join_equal(clusters: Clusters, documents: Table, parts: int) -> None:
    """Put documents of equal `key` into one cluster."""
    for part in range(parts):
        clusters.join(*repeated(*documents.keys("key", part, parts)))
