"""The first pass: some files of a source, read and cleaned to one parquet file."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.data.clean.cleaning_steps import FilterContext, build_steps, clean_document, utf8_bytes
from groundup.data.dedup.document_keys import DedupKeyWriter
from groundup.data.dedup.passages import PassageWriter
from groundup.data.document import Document, DroppedDocument, ReadResult
from groundup.data.filter_stats import FilterStats
from groundup.data.hash_cache import cached_sha256
from groundup.data.inputs import InputFile
from groundup.data.license import LicenseFinder, expand_allowed, is_allowed
from groundup.data.readers import get_reader
from groundup.data.readers.reader_options import ReaderOptions
from groundup.data.work_files import CLEAN_SCHEMA, ORDINAL_UNIT_BITS, DocumentWriter, write_json_atomically
from groundup.recipe.data_config import DataConfig, SourceConfig

NON_WORD = re.compile(r"\W+")
NON_WORD_BYTES = bytes(byte for byte in range(128) if NON_WORD.match(chr(byte)))
LOWERCASE_TABLE = bytes(byte + 32 if 65 <= byte <= 90 else byte for byte in range(256))
"""Most of a text is ASCII: bytes go through a table many times faster than characters through an expression."""


def process_unit(task: dict[str, Any]) -> dict[str, Any]:
    """Read and clean one unit: writes NNNNN.parquet, then NNNNN.json, whose presence says that everything is
    whole.

    Beside it stand the keys by which documents and passages are compared, document after document: NNNNN.keys
    and, where the recipe asks, NNNNN.paragraphs or NNNNN.runs.
    """
    section = DataConfig.model_validate(task["section"])
    source = SourceConfig.model_validate(task["source"])
    machine = Machine(cache_dir=Path(task["cache"]), offline=task["offline"], threads=1)
    weights, evaluation = (Path(task[name]) if task[name] else None for name in ("weights", "evaluation"))
    bench = FilterContext(weights, evaluation)
    todo = build_steps(section, source, bench)
    options = ReaderOptions(source.text_column, section.html_extractor, expand_allowed(section.code.licenses))
    folder, number = Path(task["folder"]), task["unit"]
    funnel = FilterStats(languages=bench.languages)
    stem = folder / f"{number:05d}"
    keys, passages = (
        DedupKeyWriter(section.minhash_dedup, task["seed"], stem),
        PassageWriter(section, source.kind, stem),
    )
    hits: list[dict[str, str]] = []
    inputs: list[dict[str, Any]] = []
    writer = DocumentWriter(folder / f"{number:05d}.parquet", CLEAN_SCHEMA)
    for file in (InputFile(name, Path(path), *rest) for name, path, *rest in task["files"]):
        path = file.fetch(machine)
        inputs.append(
            {"name": file.name, "bytes": path.stat().st_size, "sha256": cached_sha256(path, machine)}
        )
        for found in read_documents(source.kind, file, options):
            amount = utf8_bytes(found.text)
            result = (
                found
                if isinstance(found, DroppedDocument)
                else clean_document(found, todo, funnel.add_change)
            )
            if isinstance(result, DroppedDocument):
                funnel.add_dropped(result, amount)
                hits += [{"source": source.name, "id": found.id, "item": item} for item in bench.hits]
                bench.hits.clear()
                continue
            row = _clean_row(result, source.name, (number << ORDINAL_UNIT_BITS) + funnel.kept[0])
            writer.add(row)
            keys.add(row["key"], result.text)
            funnel.add_kept(result, amount)
            passages.add(result.text)
        if file.url is not None and not task["keep_downloads"]:
            path.unlink(missing_ok=True)
    for part in (writer, keys, passages):
        part.close()
    answer = {"stats": asdict(funnel), "inputs": inputs, "contaminated": hits}
    write_json_atomically(folder / f"{number:05d}.json", answer)
    return {"unit": number, "documents": funnel.read[0]}


def _clean_row(document: Document, source: str, ordinal: int) -> dict[str, Any]:
    text = document.text
    return {
        "ordinal": ordinal, "source": source, "id": document.id, "text": text, "key": text_key(text), "bytes": utf8_bytes(text),
    }  # fmt: skip


def read_documents(kind: str, file: InputFile, options: ReaderOptions) -> Iterator[ReadResult]:
    """Everything that a reader finds in a file. What is broken is a drop, not the end of the run."""
    read = get_reader(kind)
    refused: list[str] = []
    try:
        licenses = LicenseFinder(file) if kind == "code" and options.licenses else None
        for member in file.iter_members(refused):
            if member.size == 0:
                yield DroppedDocument("empty_file", member.name)
                continue
            try:
                for found in read(member.name, member.stream, options):
                    yield found if licenses is None else _check_license(found, licenses, options.licenses)
            except Exception as error:  # whatever a parser says of one file, the next one is another matter
                yield DroppedDocument("broken_file", member.name, f"{type(error).__name__}: {error}")
    except UserError as error:
        yield DroppedDocument("broken_archive", file.name, error.message)
    yield from (DroppedDocument("unsafe_name", name) for name in refused)


def _check_license(result: ReadResult, finder: LicenseFinder, allowed: frozenset[str]) -> ReadResult:
    if isinstance(result, DroppedDocument):
        return result
    license = finder.find(result.id, result.text)
    return (
        result
        if is_allowed(license, allowed)
        else DroppedDocument(f"license: {license}", result.id, result.text)
    )


def text_key(text: str) -> int:
    """64 bits that texts share when they differ only in case, punctuation and spaces."""
    letters = text.encode("utf-8", "surrogatepass").translate(LOWERCASE_TABLE, NON_WORD_BYTES)
    if not letters.isascii():
        letters = NON_WORD.sub("", letters.decode("utf-8", "surrogatepass").lower()).encode(
            "utf-8", "surrogatepass"
        )
    if not letters:
        letters = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(letters, digest_size=8).digest(), "little")
