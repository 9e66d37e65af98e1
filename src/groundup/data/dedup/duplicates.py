"""The second pass: one verdict for every document, and one mark for every passage."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from groundup.artifacts.machine import Machine
from groundup.data.dedup.document_keys import DedupKeyTable
from groundup.data.dedup.memory_budget import num_passes, peak_bytes
from groundup.data.dedup.minhash import union_exact, union_near
from groundup.data.dedup.passages import PASSAGE_KINDS, flag_repeats
from groundup.data.dedup.union_find import UnionFind
from groundup.recipe.data_config import DataConfig

KEEP, EXACT, NEAR = 0, 1, 2
REASONS = {EXACT: "exact_duplicate", NEAR: "near_duplicate"}


@dataclass(frozen=True)
class DedupDecisions:
    """Of N documents, numbered through all units.

    Attributes:
        codes: KEEP, EXACT or NEAR (N).
        roots: the first document of the cluster that each is in (N).
    """

    codes: NDArray[numpy.uint8]
    roots: NDArray[numpy.int64]


def find_duplicates(
    section: DataConfig, clean: Path, counts: dict[int, int], machine: Machine
) -> DedupDecisions:
    """Compare all documents of all units; `counts` is how many each unit has. Marks passages beside the clean
    files.
    """
    total = sum(counts.values())
    limit = 1e9 * section.memory_gigabytes
    passages = {
        kind: [path for number in sorted(counts) if (path := clean / f"{number:05d}.{kind}").exists()]
        for kind in PASSAGE_KINDS
    }
    keys = {kind: sum(path.stat().st_size for path in files) // 8 for kind, files in passages.items()}
    parts = num_passes(total, total, limit)
    log_dedup_plan(section, total, max(total, *keys.values()), machine)
    table = DedupKeyTable(clean, counts)
    clusters = UnionFind(total)
    codes = numpy.zeros(total, dtype=numpy.uint8)
    if section.exact_dedup.enabled:
        union_exact(clusters, table, parts)
        codes[clusters.roots() != numpy.arange(total)] = EXACT
    if section.minhash_dedup.action != "off":
        union_near(clusters, table, section.minhash_dedup, parts, machine.progress)
    roots = clusters.roots()
    if section.minhash_dedup.action == "drop":
        codes[(roots != numpy.arange(total)) & (codes == KEEP)] = NEAR
    for kind, files in passages.items():
        flag_repeats(files, num_passes(total, keys[kind], limit))
    return DedupDecisions(codes, roots)


def log_dedup_plan(section: DataConfig, documents: int, keys: int, machine: Machine) -> None:
    """Tell what deduplication will hold before it begins; `keys`: the most that are compared at once."""
    parts = num_passes(documents, keys, 1e9 * section.memory_gigabytes)
    machine.progress.log(
        f"deduplication: {documents} documents, {peak_bytes(documents, keys, parts) / 1e9:.2g} GB "
        f"of {section.memory_gigabytes:g} GB allowed, in {parts} pass{'es' if parts > 1 else ''}"
    )


def largest_clusters(decisions: DedupDecisions, limit: int = 20) -> list[dict[str, Any]]:
    """The largest clusters: how many members, and the numbers of the first three."""
    sizes = _cluster_sizes(decisions)
    repeated = numpy.flatnonzero(sizes > 1)
    largest = repeated[numpy.lexsort((repeated, -sizes[repeated]))[:limit]]
    return [
        {"size": int(sizes[root]), "members": numpy.flatnonzero(decisions.roots == root)[:3].tolist()}
        for root in largest
    ]


def cluster_stats(decisions: DedupDecisions) -> dict[str, Any]:
    """How many clusters there are, how many documents are in them, and the clusters by the next power of two of their
    size.
    """
    sizes = _cluster_sizes(decisions)
    sizes = sizes[sizes > 1]
    by_power = numpy.bincount(numpy.ceil(numpy.log2(sizes)).astype(numpy.int64))
    by_size = {str(1 << power): int(count) for power, count in enumerate(by_power) if count}
    return {"clusters": len(sizes), "documents": int(sizes.sum()), "sizes": by_size}


def _cluster_sizes(verdicts: DedupDecisions) -> NDArray[numpy.int64]:
    """For each document how many are in the cluster that it is the first of (N); 0 when it is not the first."""
    return numpy.bincount(verdicts.roots, minlength=1)
