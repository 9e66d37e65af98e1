"""MinHash with banding (Broder 1997): merge equal and similar documents into clusters.

Two documents with Jaccard similarity s of their n-grams agree in one hash with probability s, in a band of r hashes
with s**r, and in at least one of b bands with 1 - (1 - s**r)**b. Memory: the keys of one band at a time.
"""

import numpy

from groundup.artifacts.progress import Progress
from groundup.data.dedup.document_keys import DedupKeys
from groundup.data.dedup.union_find import Integers, UnionFind, repeated_pairs
from groundup.recipe.data_config import MinHashDedupConfig

VERIFY_BATCH = 1 << 16


def union_exact(clusters: UnionFind, keys: DedupKeys, parts: int) -> None:
    """Merge documents with equal normalized text."""
    for part in range(parts):
        clusters.union(*repeated_pairs(*keys.read_row(0, part, parts)))


def union_near(
    clusters: UnionFind, keys: DedupKeys, config: MinHashDedupConfig, parts: int, progress: Progress
) -> None:
    """Merge documents with an equal band key and, with a threshold, sufficiently similar signatures."""
    with progress.task("near duplicates", total=config.num_bands, unit="bands") as task:
        for band in range(config.num_bands):
            for part in range(parts):
                pairs = repeated_pairs(*keys.read_row(1 + band, part, parts))
                if config.threshold > 0:
                    pairs = _verify_pairs(pairs, keys, config)
                clusters.union(*pairs)
            task.advance()


def _verify_pairs(
    pairs: tuple[Integers, Integers], keys: DedupKeys, config: MinHashDedupConfig
) -> tuple[Integers, Integers]:
    """Pairs whose signatures agree in at least `threshold` of the hashes."""
    firsts, others = pairs
    similar = numpy.zeros(len(firsts), dtype=bool)
    for start in range(0, len(firsts), VERIFY_BATCH):
        batch = slice(start, start + VERIFY_BATCH)
        documents = numpy.unique(numpy.concatenate([firsts[batch], others[batch]]))
        signatures = keys.signatures(documents)
        a, b = (signatures[numpy.searchsorted(documents, side[batch])] for side in (firsts, others))
        similar[batch] = (a == b).mean(axis=1) >= config.threshold
    return firsts[similar], others[similar]


def candidate_probability(similarity: float, config: MinHashDedupConfig) -> float:
    """Probability that a pair with this Jaccard similarity becomes a candidate."""
    return 1 - (1 - similarity**config.hashes_per_band) ** config.num_bands
