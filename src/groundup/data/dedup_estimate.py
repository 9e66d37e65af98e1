"""Memory and number of passes of deduplication: the formulas, and estimates from file sizes before a run."""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path, PurePath
from typing import Any

from groundup.artifacts.directory import write_atomically
from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.data.archive import compile_glob, estimate_text_bytes
from groundup.data.file_kind import LEFT_OUT_KINDS, detect_kind, head_bytes
from groundup.data.inputs import FileSpec, InputFile, cached_package, local_files, resolve_files
from groundup.recipe.data_config import DataConfig, FileKind, SourceConfig

PROGRAM_BYTES = 350e6
"""Python interpreter with its libraries."""
BYTES_PER_DOCUMENT = 28
"""Cluster root twice (8 + 8) while paths are compressed, decision and flags (1 + 3), document number (8)."""
BYTES_PER_KEY = 60
"""Key and document number (16), once more when concatenated (16) and sorted (16), and the pairs found."""
MIN_KEYS_PER_PASS = 1 << 16

FILE_BYTES_PER_DOCUMENT: dict[FileKind, float] = {
    "auto": 4e3,
    "wikipedia": 2e3, "books": 24e3, "web": 36e3, "code": 8e3, "text": 4e3, "markdown": 4e3, "rst": 4e3, "html": 16e3,
    "pdf": 16e3, "office": 16e3, "mail": 4e3, "subtitles": 32e3,
    "jsonl": 2e3, "table": 2e3, "huggingface": 2e3, "gettext": 2e3,
}  # fmt: skip
"""Typical bytes of a file per document in it, before filtering."""
BYTES_PER_TOKEN = 4
"""Estimate for English text with about 10,000 tokens in the vocabulary."""
THREE_BYTES = re.compile("[\u0800-\U0010ffff]")
SAMPLED_FILES = 400
"""Of a folder of files of all kinds, to see which are read."""
WORDS_PER_DOCUMENT = 600
"""With data.substring_dedup there is one key per word."""


def num_passes(documents: int, keys: int, limit_bytes: float) -> int:
    """Number of parts into which `keys` keys are split so that one part fits into the limit.

    Raises UserError when no number of parts is enough.
    """
    free = limit_bytes - PROGRAM_BYTES - BYTES_PER_DOCUMENT * documents
    if free < BYTES_PER_KEY * min(keys, MIN_KEYS_PER_PASS):
        minimum = peak_bytes(documents, min(keys, MIN_KEYS_PER_PASS), 1)
        raise UserError(
            f"data.memory_gigabytes = {limit_bytes / 1e9:g}: deduplication of {documents:,} documents "
            f"needs {minimum / 1e9:.2g}",
            hint="raise data.memory_gigabytes, or split the corpus and name the earlier parts in data.dedup_against",
        )
    return max(1, -(-BYTES_PER_KEY * keys // int(free)))


def peak_bytes(documents: int, keys: int, parts: int) -> float:
    """Peak memory of deduplication in bytes, interpreter included."""
    return PROGRAM_BYTES + BYTES_PER_DOCUMENT * documents + BYTES_PER_KEY * keys / parts


def estimate_dedup(config: DataConfig, machine: Machine) -> dict[str, Any]:
    """Expected documents, memory and passes of deduplication, as plain values.

    Downloads nothing: sources that are not on this machine are listed under "unknown_sources". Raises UserError
    when data.memory_gigabytes is too low.
    """
    documents, unknown = 0.0, []
    for spec in (*config.dedup_against, *config.sources):
        files = _local_paths(spec, machine)
        if files is None:
            unknown.append(spec.name)
            continue
        fraction = spec.file_fraction if isinstance(spec, SourceConfig) else 1.0
        size = sum(estimate_text_bytes(path.name, path.stat().st_size) for path in files)
        documents += fraction * size / FILE_BYTES_PER_DOCUMENT[spec.kind]
    count = round(documents)
    keys = count * WORDS_PER_DOCUMENT if config.substring_dedup.enabled else count
    limit = 1e9 * config.memory_gigabytes
    parts = num_passes(count, keys, limit)
    return {
        "documents": count,
        "peak_bytes": peak_bytes(count, keys, parts),
        "limit_bytes": limit,
        "passes": parts,
        "unknown_sources": unknown,
    }


def estimate_tokens(config: DataConfig, machine: Machine) -> int | None:
    """Expected tokens of one pass over the training text; None if a source is not on this machine yet."""
    total = 0.0
    for source in config.sources:
        size = estimate_file_bytes(source, machine)
        if size is None:
            return None
        total += source.target_tokens or source.epochs * size / BYTES_PER_TOKEN
    return round(total)


def estimate_file_bytes(spec: FileSpec, machine: Machine) -> float | None:
    """Expected bytes of text in the files of a spec; None if they are not on this machine yet.

    Uncompressed files, without those of no known kind; of gettext catalogues, which are mostly comments, the translated messages.
    """
    if _local_paths(spec, machine) is None:
        return None
    if getattr(spec, "kind", None) == "gettext":
        files = resolve_files(spec, machine, lazy=True)
        return float(sum(_catalogue_bytes(file, file.path.stat().st_mtime_ns) for file in files))
    size, topics = 0.0, getattr(spec, "topics", ())
    files = resolve_files(spec, machine, lazy=True)
    for file in files:
        names = _member_sizes(file, file.path.stat().st_mtime_ns) if file.is_archive else ()
        names = names or [(file.name, file.path.stat().st_size)]
        size += sum(estimate_text_bytes(*each) for each in names if not topics or PurePath(each[0]).stem in topics)
    return size * (_share_read(files) if getattr(spec, "kind", None) == "auto" else 1.0)


@cache
def _member_sizes(file: InputFile, modified: int) -> Sequence[tuple[str, int]]:
    """(name, size) of the selected members of an archive.

    Those of a package, whose archive may take seconds to read, are kept beside it in the cache.
    """
    if not file.is_package:
        return [(member.name, member.size) for member in file.iter_members()]
    kept = file.path.with_name(f".{file.path.name}.members.json")
    try:
        found = json.loads(kept.read_bytes())
    except (OSError, ValueError):
        found = {}
    if found.get("modified") != modified:
        members = [(member.name, member.size) for member in replace(file, members=None).iter_members()]
        found = {"modified": modified, "members": members}
        with suppress(OSError):  # a cache that cannot be written
            write_atomically(kept, json.dumps(found).encode())
    matcher = compile_glob(file.members or "**")
    return [(name, size) for name, size in found["members"] if matcher.match(name)]


def _share_read(files: Sequence[InputFile]) -> float:
    """Share of the bytes of `files` that are of a kind with a reader, in a sample; archives count whole."""
    read = total = 0
    for file in files[:: -(-len(files) // SAMPLED_FILES)]:
        size = file.path.stat().st_size
        if not file.is_archive:
            with file.path.open("rb") as stream:
                kind = detect_kind(file.name, stream.read(head_bytes(file.name)), size)
            read += size * (kind not in LEFT_OUT_KINDS)
        else:
            read += size
        total += size
    return read / max(total, 1)


@cache
def _catalogue_bytes(file: InputFile, modified: int) -> int:
    """Letters of two bytes count once: in a vocabulary of their own language they make tokens as long as Latin ones."""
    from groundup.data.readers.gettext import parse_gettext  # imports numpy

    pairs = (
        entry
        for member in file.iter_members()
        for entry in parse_gettext(member.stream.read().decode("utf-8", "replace"), member.name)
        if isinstance(entry, list) and entry[0] != entry[1]
    )
    return sum(len(text) + 2 * len(THREE_BYTES.findall(text)) for pair in pairs for text in pair)


def _local_paths(spec: FileSpec, machine: Machine) -> list[Path] | None:
    """Files of a spec, or None if they must be downloaded first."""
    if spec.package is not None:
        path = cached_package(spec.package, machine)
        return None if path is None else [path]
    assert spec.path is not None  # the recipe schema guarantees it
    return None if "://" in spec.path else [path for _, path in local_files(spec.path)] or None
