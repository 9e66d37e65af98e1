"""What a recipe's deduplication will hold, told before anything is read: from the sizes of the files that are here."""

from pathlib import Path
from typing import Any

from groundup.artifacts.machine import Machine
from groundup.data.archive import estimate_text_bytes
from groundup.data.dedup.memory_budget import num_passes, peak_bytes
from groundup.data.inputs import cached_package, local_files
from groundup.recipe.data_config import DataConfig, FilesConfig, SourceConfig, SourceKind

FILE_BYTES_PER_DOCUMENT: dict[SourceKind, float] = {
    "wikipedia": 2e3, "books": 24e3, "web": 36e3, "code": 8e3, "text": 4e3, "markdown": 4e3, "rst": 4e3, "html": 16e3,
    "jsonl": 2e3, "table": 2e3, "huggingface": 2e3,
}  # fmt: skip
"""Of a file for each document in it, about; cleaning leaves fewer."""
WORDS_PER_DOCUMENT = 600
"""Each begins a passage that is compared, where the recipe cuts those that repeat."""


def estimate_dedup(section: DataConfig, machine: Machine) -> dict[str, Any]:
    """About how many documents there will be, and what comparing them holds: as plain values.

    Fetches nothing: sources that are not here are named in "unknown". Raises UserError when the limit is too low.
    """
    documents, unknown = 0.0, []
    for place in (*section.dedup_against, *section.sources):
        files = _local_paths(place, machine)
        if files is None:
            unknown.append(place.name)
            continue
        share = place.file_fraction if isinstance(place, SourceConfig) else 1.0
        size = sum(estimate_text_bytes(path.name, path.stat().st_size) for path in files)
        documents += share * size / FILE_BYTES_PER_DOCUMENT[place.kind]
    count = round(documents)
    keys = count * WORDS_PER_DOCUMENT if section.substring_dedup.enabled else count
    limit = 1e9 * section.memory_gigabytes
    parts = num_passes(count, keys, limit)
    return {
        "documents": count,
        "peak_bytes": peak_bytes(count, keys, parts),
        "limit_bytes": limit,
        "passes": parts,
        "unknown_sources": unknown,
    }


def _local_paths(spec: FilesConfig, machine: Machine) -> list[Path] | None:
    """The files of a place, or None when they must be fetched first."""
    if spec.package is not None:
        path = cached_package(spec.package, machine)
        return None if path is None else [path]
    assert spec.path is not None  # the recipe sees to it
    return None if "://" in spec.path else [path for _, path in local_files(spec.path)] or None
