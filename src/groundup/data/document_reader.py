"""Read documents from files: one input file, or all files of a path, archives included."""

import io
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import IO, Any

from groundup.artifacts.arguments import unknown_option
from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.data.archive import ArchiveMember, iter_members, rejoin
from groundup.data.clean.cleaning_steps import utf8_bytes
from groundup.data.document import Document, DroppedDocument, ReadResult
from groundup.data.file_kind import ARCHIVE, LEFT_OUT_KINDS, detect_kind, head_bytes
from groundup.data.filter_stats import FilterStats
from groundup.data.inputs import InputFile, resolve_files
from groundup.data.license import UNKNOWN_LICENSE, LicenseFinder, is_allowed
from groundup.data.readers import get_reader
from groundup.data.readers.reader_options import MAX_BYTES, ReaderOptions, read_bounded
from groundup.recipe.data_config import FileKind, FilesConfig

AUTO = "auto"
MAX_ARCHIVE_DEPTH = 3
"""Archives within archives; they are read into memory."""


def read_documents(path: str | Path, kind: FileKind = "auto", **options: Any) -> Iterator[Document]:
    """Documents in the files that `path` names: a file, a folder, a glob, a URL or an archive.

    Each file is read by its kind, or all by one `kind`. `options` are fields of ReaderOptions, such as
    text_column="content" or html_extractor="resiliparse". Files are read as the iterator advances; damaged parts, such
    as invalid lines of JSON, are skipped silently. Raises UserError if no file matches, and at the end if no document was
    found, with the reasons.

    >>> [document.text for document in read_documents("articles/*.jsonl", "jsonl")]  # doctest: +SKIP
    """
    known = [field.name for field in fields(ReaderOptions)]
    for name in options:
        if name not in known:
            raise unknown_option(name, known)
    spec = FilesConfig(name="documents", kind=kind, path=str(path))
    return _read_some(spec, ReaderOptions(**options))


def _read_some(spec: FilesConfig, options: ReaderOptions) -> Iterator[Document]:
    stats = FilterStats()
    yield from read_spec(spec, options, Machine(), stats)
    if stats.kept[0] == 0:
        raise UserError(
            f"{spec.path}: no document found: {stats.describe_loss()}", hint="check the path, kind and text_column"
        )


def read_spec(
    spec: FilesConfig, options: ReaderOptions, machine: Machine, stats: FilterStats | None = None
) -> Iterator[Document]:
    """Documents in the files of an entry of the recipe, without those that the reader drops; `stats` counts both."""
    counted = FilterStats() if stats is None else stats
    for file in resolve_files(spec, machine):
        for found in read_file(spec.kind, file, options):
            if isinstance(found, Document):
                counted.add_kept(found, utf8_bytes(found.text))
                yield found
            else:
                counted.add_dropped(found, 0)


def read_file(kind: str, file: InputFile, options: ReaderOptions) -> Iterator[ReadResult]:
    """Documents in one file. Damaged parts become dropped documents; nothing is raised."""
    return (found for _, found in read_file_kinds(kind, file, options))


def read_file_kinds(kind: str, file: InputFile, options: ReaderOptions) -> Iterator[tuple[str, ReadResult]]:
    """Documents in one file, each with the kind of its reader; "auto" chooses it for every file and archive member."""
    unsafe_names: list[str] = []
    try:
        licenses = LicenseFinder(file)
        for member in file.iter_members(unsafe_names):
            for member_kind, found in _read_member(kind, member, options):
                is_code = member_kind == "code"
                yield member_kind, _find_license(found, licenses, options.licenses) if is_code else found
    except UserError as error:
        yield kind, DroppedDocument("broken_archive", file.name, error.message)
    yield from ((kind, DroppedDocument("unsafe_name", name)) for name in unsafe_names)


def _read_member(
    kind: str, member: ArchiveMember, options: ReaderOptions, depth: int = 0
) -> Iterator[tuple[str, ReadResult]]:
    name, stream = member.name, member.stream
    if member.size == 0:
        yield kind, DroppedDocument("empty_file", name)
        return
    try:
        if kind == AUTO:
            head = stream.read(head_bytes(name))
            stream = rejoin(head, stream)
            kind = detect_kind(name, head, member.size)
            options = replace(options, by_content=True)
        if kind in LEFT_OUT_KINDS:
            yield kind, DroppedDocument(kind, name)
        elif kind == ARCHIVE:
            yield from _read_nested_archive(name, stream, options, depth)
        else:
            taken = False
            for found in get_reader(kind)(name, stream, options):
                taken = True
                yield kind, found
            if not taken:
                yield kind, DroppedDocument("not_read", name)
    except ModuleNotFoundError:  # an extra is not installed: no property of the file
        raise
    except BaseException as error:  # parsers raise anything on damaged input; the next member may be readable
        if not isinstance(error, Exception) and type(error).__name__ != RUST_PANIC:
            raise
        yield kind, DroppedDocument("broken_file", name, f"{type(error).__name__}: {error}")


def _read_nested_archive(
    name: str, stream: IO[bytes], options: ReaderOptions, depth: int
) -> Iterator[tuple[str, ReadResult]]:
    if depth == MAX_ARCHIVE_DEPTH:
        yield ARCHIVE, DroppedDocument("nested_archive", name)
        return
    if (data := read_bounded(stream, MAX_BYTES)) is None:
        yield ARCHIVE, DroppedDocument("too_large", name)
        return
    unsafe_names: list[str] = []
    for member in iter_members(io.BytesIO(data), unsafe_names=unsafe_names):
        inner = ArchiveMember(f"{name}/{member.name}", member.size, member.stream)
        yield from _read_member(AUTO, inner, options, depth + 1)
    yield from ((ARCHIVE, DroppedDocument("unsafe_name", f"{name}/{unsafe}")) for unsafe in unsafe_names)


RUST_PANIC = "PanicException"
"""Class that libraries in Rust raise for their bugs; no subclass of Exception."""


def _find_license(found: ReadResult, licenses: LicenseFinder, allowed: frozenset[str]) -> ReadResult:
    """The file with its license, or dropped for it if `allowed` names any."""
    if isinstance(found, DroppedDocument):
        return found
    name = licenses.find(found.id, found.text)
    if allowed and not is_allowed(name, allowed):
        return DroppedDocument(f"license: {name}", found.id, found.text)
    found.license = "" if name == UNKNOWN_LICENSE else name
    return found
