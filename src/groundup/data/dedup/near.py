"""Duplicates: equal keys, and MinHash signatures (Broder 1997), banded so that similar documents meet.

Two documents of Jaccard similarity s over their shingles agree in a hash with probability s, in a band of r hashes
with s**r, and in at least one of b bands with 1 - (1 - s**r)**b. Only keys are held, one band at a time.
"""

import numpy

from groundup.artifacts.progress import Progress
from groundup.data.dedup.clusters import Clusters, Integers, repeated
from groundup.data.dedup.keys import KeyTable
from groundup.recipe.data import MinHash


def join_equal(clusters: Clusters, documents: KeyTable, parts: int) -> None:
    """Put documents whose words are the same into one cluster."""
    for part in range(parts):
        clusters.join(*repeated(*documents.row(0, part, parts)))


def join_near(
    clusters: Clusters, documents: KeyTable, settings: MinHash, parts: int, progress: Progress
) -> None:
    """Put documents that meet in a band into one cluster, if their whole signatures agree well enough."""
    with progress.task("near duplicates", total=settings.bands, unit="bands") as task:
        for band in range(settings.bands):
            for part in range(parts):
                pairs = repeated(*documents.row(1 + band, part, parts))
                if settings.threshold > 0:
                    pairs = _verified(pairs, documents, settings)
                clusters.join(*pairs)
            task.advance()


def _verified(
    pairs: tuple[Integers, Integers], documents: KeyTable, settings: MinHash
) -> tuple[Integers, Integers]:
    firsts, others = pairs
    alike = numpy.zeros(len(firsts), dtype=bool)
    for start in range(0, len(firsts), VERIFIED_AT_ONCE):
        some = slice(start, start + VERIFIED_AT_ONCE)
        wanted = numpy.unique(numpy.concatenate([firsts[some], others[some]]))
        signatures = documents.signatures(wanted)
        a, b = (signatures[numpy.searchsorted(wanted, side[some])] for side in (firsts, others))
        alike[some] = (a == b).mean(axis=1) >= settings.threshold
    return firsts[alike], others[alike]


VERIFIED_AT_ONCE = 1 << 16


def found_share(similarity: float, settings: MinHash) -> float:
    """Probability that a pair of this Jaccard similarity becomes a candidate."""
    return 1 - (1 - similarity**settings.rows) ** settings.bands
