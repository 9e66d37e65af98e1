"""The second pass: one verdict for every document, and one mark for every passage."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from groundup.artifacts.machine import Machine
from groundup.data.dedup.clusters import Clusters
from groundup.data.dedup.keys import KeyTable
from groundup.data.dedup.memory import held, passes
from groundup.data.dedup.near import join_equal, join_near
from groundup.data.dedup.passages import KINDS, mark_repeats
from groundup.recipe.data import DataSection

KEEP, EXACT, NEAR = 0, 1, 2
REASONS = {EXACT: "exact_duplicate", NEAR: "near_duplicate"}


@dataclass(frozen=True)
class Verdicts:
    """Of N documents, numbered through all units.

    Attributes:
        codes: KEEP, EXACT or NEAR (N).
        roots: the first document of the cluster that each is in (N).
    """

    codes: NDArray[numpy.uint8]
    roots: NDArray[numpy.int64]


def judge(section: DataSection, clean: Path, counts: dict[int, int], machine: Machine) -> Verdicts:
    """Compare all documents of all units; `counts` is how many each unit has. Marks passages beside the clean
    files.
    """
    total = sum(counts.values())
    limit = 1e9 * section.memory_gigabytes
    passages = {
        kind: [path for number in sorted(counts) if (path := clean / f"{number:05d}.{kind}").exists()]
        for kind in KINDS
    }
    keys = {kind: sum(path.stat().st_size for path in files) // 8 for kind, files in passages.items()}
    parts = passes(total, total, limit)
    say_plan(section, total, max(total, *keys.values()), machine)
    table = KeyTable(clean, counts)
    clusters = Clusters(total)
    codes = numpy.zeros(total, dtype=numpy.uint8)
    if section.exact.enabled:
        join_equal(clusters, table, parts)
        codes[clusters.roots() != numpy.arange(total)] = EXACT
    if section.minhash.action != "off":
        join_near(clusters, table, section.minhash, parts, machine.progress)
    roots = clusters.roots()
    if section.minhash.action == "drop":
        codes[(roots != numpy.arange(total)) & (codes == KEEP)] = NEAR
    for kind, files in passages.items():
        mark_repeats(files, passes(total, keys[kind], limit))
    return Verdicts(codes, roots)


def say_plan(section: DataSection, documents: int, keys: int, machine: Machine) -> None:
    """Tell what deduplication will hold before it begins; `keys`: the most that are compared at once."""
    parts = passes(documents, keys, 1e9 * section.memory_gigabytes)
    machine.progress.say(
        f"deduplication: {documents} documents, {held(documents, keys, parts) / 1e9:.2g} GB "
        f"of {section.memory_gigabytes:g} GB allowed, in {parts} pass{'es' if parts > 1 else ''}"
    )


def clusters_to_show(verdicts: Verdicts, limit: int = 20) -> list[dict[str, Any]]:
    """The largest clusters: how many members, and the numbers of the first three."""
    sizes = _sizes(verdicts)
    repeated = numpy.flatnonzero(sizes > 1)
    largest = repeated[numpy.lexsort((repeated, -sizes[repeated]))[:limit]]
    return [
        {"size": int(sizes[root]), "members": numpy.flatnonzero(verdicts.roots == root)[:3].tolist()}
        for root in largest
    ]


def cluster_counts(verdicts: Verdicts) -> dict[str, Any]:
    """How many clusters there are, how many documents are in them, and the clusters by the next power of two of their
    size.
    """
    sizes = _sizes(verdicts)
    sizes = sizes[sizes > 1]
    by_power = numpy.bincount(numpy.ceil(numpy.log2(sizes)).astype(numpy.int64))
    by_size = {str(1 << power): int(count) for power, count in enumerate(by_power) if count}
    return {"clusters": len(sizes), "documents": int(sizes.sum()), "sizes": by_size}


def _sizes(verdicts: Verdicts) -> NDArray[numpy.int64]:
    """For each document how many are in the cluster that it is the first of (N); 0 when it is not the first."""
    return numpy.bincount(verdicts.roots, minlength=1)
