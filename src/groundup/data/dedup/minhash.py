"""Duplicates: equal keys, and MinHash signatures (Broder 1997), banded so that similar documents meet.

Two documents of Jaccard similarity s over their shingles agree in a hash with probability s, in a band of r hashes
with s**r, and in at least one of b bands with 1 - (1 - s**r)**b. Only keys are held, one band at a time.
"""

import numpy

from groundup.artifacts.progress import Progress
from groundup.data.dedup.document_keys import DedupKeyTable
from groundup.data.dedup.union_find import Integers, UnionFind, repeated_pairs
from groundup.recipe.data_config import MinHashDedupConfig


def union_exact(union_find: UnionFind, documents: DedupKeyTable, parts: int) -> None:
    """Put documents whose words are the same into one cluster."""
    for part in range(parts):
        union_find.union(*repeated_pairs(*documents.read_row(0, part, parts)))


def union_near(
    union_find: UnionFind,
    documents: DedupKeyTable,
    settings: MinHashDedupConfig,
    parts: int,
    progress: Progress,
) -> None:
    """Put documents that meet in a band into one cluster, if their whole signatures agree well enough."""
    with progress.task("near duplicates", total=settings.num_bands, unit="bands") as task:
        for band in range(settings.num_bands):
            for part in range(parts):
                pairs = repeated_pairs(*documents.read_row(1 + band, part, parts))
                if settings.threshold > 0:
                    pairs = _verify_pairs(pairs, documents, settings)
                union_find.union(*pairs)
            task.advance()


def _verify_pairs(
    pairs: tuple[Integers, Integers], documents: DedupKeyTable, settings: MinHashDedupConfig
) -> tuple[Integers, Integers]:
    firsts, others = pairs
    alike = numpy.zeros(len(firsts), dtype=bool)
    for start in range(0, len(firsts), VERIFY_BATCH):
        some = slice(start, start + VERIFY_BATCH)
        wanted = numpy.unique(numpy.concatenate([firsts[some], others[some]]))
        signatures = documents.signatures(wanted)
        a, b = (signatures[numpy.searchsorted(wanted, side[some])] for side in (firsts, others))
        alike[some] = (a == b).mean(axis=1) >= settings.threshold
    return firsts[alike], others[alike]


VERIFY_BATCH = 1 << 16


def candidate_probability(similarity: float, settings: MinHashDedupConfig) -> float:
    """Probability that a pair of this Jaccard similarity becomes a candidate."""
    return 1 - (1 - similarity**settings.hashes_per_band) ** settings.num_bands
