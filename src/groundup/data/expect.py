"""What a recipe's deduplication will hold, told before anything is read: from the sizes of the files that are here."""

from pathlib import Path
from typing import Any

from groundup.artifacts.machine import Machine
from groundup.data.archive import unpacked_bytes
from groundup.data.dedup.memory import held, passes
from groundup.data.place import cached_package, local_files
from groundup.recipe.data import DataSection, Files, Source, SourceKind

DOCUMENT_BYTES: dict[SourceKind, float] = {
    "wikipedia": 2e3, "books": 24e3, "web": 36e3, "code": 8e3, "text": 4e3, "markdown": 4e3, "rst": 4e3, "html": 16e3,
    "jsonl": 2e3, "table": 2e3, "huggingface": 2e3,
}  # fmt: skip
"""Of a file for each document in it, about; cleaning leaves fewer."""
DOCUMENT_WORDS = 600
"""Each begins a passage that is compared, where the recipe cuts those that repeat."""


def deduplication(section: DataSection, machine: Machine) -> dict[str, Any]:
    """About how many documents there will be, and what comparing them holds: as plain values.

    Fetches nothing: sources that are not here are named in "unknown". Raises UserError when the limit is too low.
    """
    documents, unknown = 0.0, []
    for place in (*section.previous, *section.sources):
        files = _here(place, machine)
        if files is None:
            unknown.append(place.name)
            continue
        share = place.sample_files if isinstance(place, Source) else 1.0
        size = sum(unpacked_bytes(path.name, path.stat().st_size) for path in files)
        documents += share * size / DOCUMENT_BYTES[place.kind]
    count = round(documents)
    keys = count * DOCUMENT_WORDS if section.substring.enabled else count
    limit = 1e9 * section.memory_gigabytes
    parts = passes(count, keys, limit)
    return {
        "documents": count,
        "held": held(count, keys, parts),
        "limit": limit,
        "passes": parts,
        "unknown": unknown,
    }


def _here(place: Files, machine: Machine) -> list[Path] | None:
    """The files of a place, or None when they must be fetched first."""
    if place.package is not None:
        path = cached_package(place.package, machine)
        return None if path is None else [path]
    assert place.path is not None  # the recipe sees to it
    return None if "://" in place.path else [path for _, path in local_files(place.path)] or None
