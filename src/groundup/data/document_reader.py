"""Read documents from files: one input file, or all files of a path, archives included."""

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from groundup.artifacts.arguments import unknown_option
from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.data.document import Document, DroppedDocument, ReadResult
from groundup.data.inputs import InputFile, resolve_files
from groundup.data.license import LicenseFinder, is_allowed
from groundup.data.readers import get_reader
from groundup.data.readers.reader_options import ReaderOptions
from groundup.recipe.data_config import FilesConfig, SourceKind


def read_documents(path: str | Path, kind: SourceKind = "text", **options: Any) -> Iterator[Document]:
    """Documents in the files that `path` names: a file, a folder, a glob, a URL or an archive.

    `options` are fields of ReaderOptions, such as text_column="content" or html_extractor="resiliparse". Files are read
    as the iterator advances; damaged parts, such as invalid lines of JSON, are skipped silently. Raises UserError if no
    file matches.

    >>> [document.text for document in read_documents("articles/*.jsonl", "jsonl")]  # doctest: +SKIP
    """
    known = [field.name for field in fields(ReaderOptions)]
    for name in options:
        if name not in known:
            raise unknown_option(name, known)
    spec = FilesConfig(name="documents", kind=kind, path=str(path))
    return read_spec(spec, ReaderOptions(**options), Machine())


def read_spec(spec: FilesConfig, options: ReaderOptions, machine: Machine) -> Iterator[Document]:
    """Documents in the files of an entry of the recipe, without those that the reader drops."""
    for file in resolve_files(spec, machine):
        yield from (found for found in read_file(spec.kind, file, options) if isinstance(found, Document))


def read_file(kind: str, file: InputFile, options: ReaderOptions) -> Iterator[ReadResult]:
    """Documents in one file. Damaged parts become dropped documents; nothing is raised."""
    read = get_reader(kind)
    unsafe_names: list[str] = []
    try:
        licenses = LicenseFinder(file) if kind == "code" and options.licenses else None
        for member in file.iter_members(unsafe_names):
            if member.size == 0:
                yield DroppedDocument("empty_file", member.name)
                continue
            try:
                for found in read(member.name, member.stream, options):
                    yield found if licenses is None else _check_license(found, licenses, options.licenses)
            except Exception as error:  # parsers raise anything on damaged input; the next member may be readable
                yield DroppedDocument("broken_file", member.name, f"{type(error).__name__}: {error}")
    except UserError as error:
        yield DroppedDocument("broken_archive", file.name, error.message)
    yield from (DroppedDocument("unsafe_name", name) for name in unsafe_names)


def _check_license(found: ReadResult, licenses: LicenseFinder, allowed: frozenset[str]) -> ReadResult:
    if isinstance(found, DroppedDocument):
        return found
    name = licenses.find(found.id, found.text)
    return found if is_allowed(name, allowed) else DroppedDocument(f"license: {name}", found.id, found.text)
