"""MinHash with banding (Broder 1997): merge equal and similar documents into clusters.

Two documents with Jaccard similarity s of their n-grams agree in one hash with probability s, in a band of r hashes
with s**r, and in at least one of b bands with 1 - (1 - s**r)**b. Memory: the keys of one band at a time.
"""

from collections.abc import Iterator

import numpy
from numpy.typing import NDArray

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
        for count, pairs in enumerate(_band_pairs(keys, config, parts), start=1):
            clusters.union(*pairs)
            task.advance(count % parts == 0)


def resolve_chains(
    roots: Integers, is_near: NDArray[numpy.bool_], keys: DedupKeys, config: MinHashDedupConfig, parts: int
) -> tuple[Integers, Integers]:
    """(numbers, originals) of the documents that are similar to another of their cluster, but not to its first.

    In a chain of drifting documents the ends have little in common. In ascending order, each document that is similar to
    one that is kept has that one as original; others are their own. `roots`: first document of each cluster (N);
    `is_near`: whether a document is neither the first nor an exact duplicate (N).
    """
    is_large = numpy.bincount(roots, minlength=len(roots)) > 2
    indirect = is_large[roots] & is_near
    members = indirect | is_large
    if not indirect.any():
        return numpy.zeros(0, dtype=numpy.int64), numpy.zeros(0, dtype=numpy.int64)
    for pairs in _band_pairs(keys, config, parts, members):
        firsts, others = pairs
        indirect[others[firsts == roots[others]]] = False
    numbers = numpy.flatnonzero(indirect)
    return numbers, _keep_in_order(numbers, keys, config, parts, indirect)


def _band_pairs(
    keys: DedupKeys, config: MinHashDedupConfig, parts: int, members: NDArray[numpy.bool_] | None = None
) -> Iterator[tuple[Integers, Integers]]:
    """Pairs of each band and part, of `members` (N) only."""
    for band in range(config.num_bands):
        for part in range(parts):
            numbers, row = keys.read_row(1 + band, part, parts)
            if members is not None:
                numbers, row = numbers[members[numbers]], row[members[numbers]]
            pairs = repeated_pairs(numbers, row)
            yield _verify_pairs(pairs, keys, config) if config.threshold > 0 else pairs


def _keep_in_order(
    numbers: Integers, keys: DedupKeys, config: MinHashDedupConfig, parts: int, members: NDArray[numpy.bool_]
) -> Integers:
    """Originals of `numbers` (ascending), compared with one another."""
    rows = numpy.zeros((config.num_bands, len(numbers)), dtype=numpy.uint64)
    for band in range(config.num_bands):
        for part in range(parts):
            found, row = keys.read_row(1 + band, part, parts)
            selected = members[found]
            rows[band, numpy.searchsorted(numbers, found[selected])] = row[selected]
    originals: list[int] = []
    kept: dict[tuple[int, int], list[int]] = {}
    for number, column in zip(numbers.tolist(), rows.T.tolist(), strict=True):
        places = list(enumerate(column))
        candidates = sorted({other for place in places for other in kept.get(place, ())})
        similar = (other for other in candidates if config.threshold == 0 or _is_similar(other, number, keys, config))
        original = next(similar, number)
        originals.append(original)
        if original == number:
            for place in places:
                kept.setdefault(place, []).append(number)
    return numpy.array(originals, dtype=numpy.int64)


def _is_similar(first: int, other: int, keys: DedupKeys, config: MinHashDedupConfig) -> bool:
    pair = (numpy.array([first]), numpy.array([other]))
    return len(_verify_pairs(pair, keys, config)[0]) > 0


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
