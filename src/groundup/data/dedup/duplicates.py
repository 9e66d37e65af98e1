"""Exact and near duplicates: of texts in memory, and of all documents of a corpus on disk."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy
from numpy.typing import NDArray

from groundup.artifacts.arguments import check_choice, iter_texts
from groundup.artifacts.machine import Machine
from groundup.artifacts.progress import Progress
from groundup.data.dedup.document_keys import DedupKeys, DedupKeyTable, InMemoryKeys, code_key, text_key
from groundup.data.dedup.minhash import resolve_chains, union_exact, union_near
from groundup.data.dedup.passages import PASSAGE_KINDS, flag_repeats
from groundup.data.dedup.union_find import UnionFind
from groundup.data.dedup_estimate import num_passes, peak_bytes
from groundup.recipe.data_config import DataConfig, MinHashDedupConfig, SourceKind

KEEP, EXACT, NEAR = 0, 1, 2
DROP_REASONS = {EXACT: "exact_duplicate", NEAR: "near_duplicate"}


@dataclass(frozen=True)
class DedupDecisions:
    """Decisions for N documents.

    Attributes:
        codes: KEEP, EXACT or NEAR (N).
        roots: number of the first document of each document's cluster (N). Several of a cluster are kept if it is a
            chain whose ends have little in common.
    """

    codes: NDArray[numpy.uint8]
    roots: NDArray[numpy.int64]


def find_duplicates(
    texts: Iterable[str],
    kind: SourceKind = "web",
    *,
    exact: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
    **minhash: Any,
) -> list[int]:
    """For each text the index of the first text that it duplicates, or its own index.

    Texts of the kind "code" are equal if they differ in spaces only, others also if they differ in case and punctuation.
    `minhash` are the knobs of [data.minhash_dedup]: ngram_size, num_bands, hashes_per_band, threshold, action
    ("off": only exact duplicates). `seed`: that of a recipe, for the same result. Memory: 0.6 kB for each text beside it.

    >>> find_duplicates(["The cat sat.", "A dog barked.", "the cat sat!"])
    [0, 1, 0]
    """
    texts = list(iter_texts(texts))
    check_choice("kind", kind, get_args(SourceKind))
    config = MinHashDedupConfig(**minhash)
    progress = progress or Progress()
    keys = InMemoryKeys(texts, config, seed, code_key if kind == "code" else text_key, progress)
    decisions = decide_duplicates(keys, len(texts), exact, config, progress=progress)
    originals = decisions.roots.copy()
    if config.action == "drop" and len(texts):
        is_near = (decisions.roots != numpy.arange(len(texts))) & (decisions.codes != EXACT)
        numbers, found = resolve_chains(decisions.roots, is_near, keys, config, 1)
        originals[numbers] = found
    copies = UnionFind(len(texts))
    if exact:
        union_exact(copies, keys, 1)
    return originals[copies.roots()].tolist()


def deduplicate(
    texts: Iterable[str],
    kind: SourceKind = "web",
    *,
    exact: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
    **minhash: Any,
) -> list[str]:
    """The texts without exact and near duplicates; of each cluster the first stays. Arguments: `find_duplicates`.

    >>> deduplicate(["The cat sat.", "A dog barked.", "the cat sat!"])
    ['The cat sat.', 'A dog barked.']
    """
    texts = list(iter_texts(texts))
    originals = find_duplicates(texts, kind, exact=exact, seed=seed, progress=progress, **minhash)
    return [text for index, text in enumerate(texts) if originals[index] == index]


def decide_duplicates(
    keys: DedupKeys, total: int, exact: bool, config: MinHashDedupConfig, parts: int = 1, progress: Progress | None = None
) -> DedupDecisions:  # fmt: skip
    """Compare `total` documents by their keys, in `parts` passes."""
    clusters, numbers = UnionFind(total), numpy.arange(total)
    codes = numpy.zeros(total, dtype=numpy.uint8)
    if exact:
        union_exact(clusters, keys, parts)
        codes[clusters.roots() != numbers] = EXACT
    if config.action != "off" and total:
        union_near(clusters, keys, config, parts, progress or Progress())
    roots = clusters.roots()
    if config.action == "drop":
        codes[(roots != numbers) & (codes == KEEP)] = NEAR
        if total:
            del clusters, numbers  # memory
            indirect, originals = resolve_chains(roots, codes == NEAR, keys, config, parts)
            codes[indirect[originals == indirect]] = KEEP
    return DedupDecisions(codes, roots)


def deduplicate_units(config: DataConfig, clean: Path, counts: dict[int, int], machine: Machine) -> DedupDecisions:
    """Compare all documents in the unit files of folder `clean`; `counts`: documents per unit.

    Also writes the flags of repeated passages beside the unit files.
    """
    total = sum(counts.values())
    limit = 1e9 * config.memory_gigabytes
    passages = {
        kind: [path for unit in sorted(counts) if (path := clean / f"{unit:05d}.{kind}").exists()]
        for kind in PASSAGE_KINDS
    }
    num_keys = {kind: sum(path.stat().st_size for path in files) // 8 for kind, files in passages.items()}
    most_keys = max(total, *num_keys.values())  # compared at once
    parts = num_passes(total, most_keys, limit)
    machine.progress.log(
        f"deduplication: {total:,} documents, {peak_bytes(total, most_keys, parts) / 1e9:.2g} GB "
        f"(data.memory_gigabytes = {config.memory_gigabytes:g}), {parts} pass{'es' if parts > 1 else ''}"
    )
    decisions = decide_duplicates(
        DedupKeyTable(clean, counts), total, config.exact_dedup.enabled, config.minhash_dedup,
        num_passes(total, total, limit), machine.progress,
    )  # fmt: skip
    for kind, files in passages.items():
        flag_repeats(files, num_passes(total, num_keys[kind], limit))
    return decisions


def largest_clusters(decisions: DedupDecisions, limit: int = 20) -> list[dict[str, Any]]:
    """The largest clusters: size, and the numbers of the first three members."""
    sizes = _cluster_sizes(decisions)
    repeated = numpy.flatnonzero(sizes > 1)
    largest = repeated[numpy.lexsort((repeated, -sizes[repeated]))[:limit]]
    return [
        {"size": int(sizes[root]), "members": numpy.flatnonzero(decisions.roots == root)[:3].tolist()}
        for root in largest
    ]


def cluster_stats(decisions: DedupDecisions) -> dict[str, Any]:
    """Number of clusters, documents in clusters, and clusters by size rounded up to a power of two."""
    sizes = _cluster_sizes(decisions)
    sizes = sizes[sizes > 1]
    by_power = numpy.bincount(numpy.ceil(numpy.log2(sizes)).astype(numpy.int64))
    by_size = {str(1 << power): int(count) for power, count in enumerate(by_power) if count}
    return {"clusters": len(sizes), "documents": int(sizes.sum()), "sizes": by_size}


def _cluster_sizes(decisions: DedupDecisions) -> NDArray[numpy.int64]:
    """Cluster size at the number of each cluster's first document, else 0 (N)."""
    return numpy.bincount(decisions.roots, minlength=1)
