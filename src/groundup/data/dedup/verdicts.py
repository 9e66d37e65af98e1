"""The second pass: one verdict for every document, and one mark for every passage."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from groundup.artifacts.machine import Machine
from groundup.data.dedup.clusters import ROW_BYTES, Clusters, passes
from groundup.data.dedup.exact import join_equal
from groundup.data.dedup.near import join_near
from groundup.data.dedup.passages import mark_repeats
from groundup.data.engine import Table
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


def judge(
    section: DataSection, clean: Path, work: Path, counts: dict[int, int], seed: int, machine: Machine
) -> Verdicts:
    """Compare all documents of all units; `counts` is how many each unit has. Marks passages beside the clean
    files.
    """
    bases, total = {}, 0
    for number in sorted(counts):
        bases[number] = total
        total += counts[number]
    limit = 1e9 * section.memory_gigabytes - 17 * total
    parts = passes(total, limit)
    say_plan(section, total, parts, machine)
    table = Table([clean / f"{number:05d}.parquet" for number in sorted(counts) if counts[number]], bases)
    equal = Clusters(total)
    if section.exact.enabled:
        join_equal(equal, table, parts)
    near = Clusters(total)
    near.parent[:] = equal.roots()
    if section.minhash.action != "off":
        join_near(near, table, work / "signatures", section.minhash, seed, parts, machine.progress)
    numbers = numpy.arange(total)
    codes = numpy.zeros(total, dtype=numpy.uint8)
    if section.minhash.action == "drop":
        codes[near.roots() != numbers] = NEAR
    codes[equal.roots() != numbers] = EXACT
    for kind in ("paragraphs", "runs"):
        files = [path for path in sorted(clean.glob(f"*.{kind}.npy")) if path.name.count(".") == 2]
        rows = sum(len(numpy.load(path, mmap_mode="r")) for path in files)
        mark_repeats(files, passes(rows, 1e9 * section.memory_gigabytes))
    return Verdicts(codes, near.roots())


def say_plan(section: DataSection, documents: int, parts: int, machine: Machine) -> None:
    """Tell what deduplication will hold before it begins."""
    held = (17 * documents + ROW_BYTES * documents / parts) / 1e9
    machine.progress.say(
        f"deduplication: {documents} documents, about {held:.2g} GB "
        f"of {section.memory_gigabytes:g} GB allowed, in {parts} pass{'es' if parts > 1 else ''}"
    )


def clusters_to_show(verdicts: Verdicts, limit: int = 20) -> list[dict[str, Any]]:
    """The largest clusters: how many members, and the numbers of the first three."""
    roots, sizes = numpy.unique(verdicts.roots, return_counts=True)
    largest = sorted(zip((-sizes[sizes > 1]).tolist(), roots[sizes > 1].tolist(), strict=True))[:limit]
    return [
        {"size": -size, "members": numpy.flatnonzero(verdicts.roots == root)[:3].tolist()}
        for size, root in largest
    ]
