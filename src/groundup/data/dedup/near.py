"""Near duplicates: MinHash signatures (Broder 1997), banded so that similar documents meet.

Two documents of Jaccard similarity s over their shingles agree in a hash with probability s, in a band of r
hashes with s**r, and in at least one of b bands with 1 - (1 - s**r)**b. Only hashes are held, one band at a
time.
"""

from pathlib import Path

import numpy

from groundup.artifacts.progress import Progress
from groundup.data.dedup.clusters import Clusters, Integers, repeated
from groundup.data.engine import Table
from groundup.recipe.data import MinHash


def join_near(
    clusters: Clusters,
    documents: Table,
    work: Path,
    settings: MinHash,
    seed: int,
    parts: int,
    progress: Progress,
) -> None:
    """Put documents that meet in a band into one cluster, if their whole signatures agree well enough."""
    with progress.task("near duplicates", total=settings.bands + 1, unit="bands") as task:
        bands = documents.band_hashes(work, settings, seed)
        task.advance()
        for band in range(settings.bands):
            for part in range(parts):
                pairs = repeated(*bands.keys(f"b{band}", part, parts))
                if settings.threshold > 0:
                    pairs = _verified(pairs, bands, settings)
                clusters.join(*pairs)
            task.advance()


def _verified(pairs: tuple[Integers, Integers], bands: Table, settings: MinHash) -> tuple[Integers, Integers]:
    firsts, others = pairs
    if len(firsts) == 0:
        return pairs
    wanted = numpy.unique(numpy.concatenate(pairs))
    signatures = bands.signatures(wanted, settings.bands * settings.rows)
    same = signatures[numpy.searchsorted(wanted, firsts)] == signatures[numpy.searchsorted(wanted, others)]
    alike = same.mean(axis=1) >= settings.threshold
    return firsts[alike], others[alike]


def found_share(similarity: float, settings: MinHash) -> float:
    """Probability that a pair of this Jaccard similarity becomes a candidate."""
    return 1 - (1 - similarity**settings.rows) ** settings.bands
