"""The first pass: some files of a source, read and cleaned to one parquet file."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.data.clean.steps import Bench, clean, size, steps
from groundup.data.dedup.keys import KeyWriter
from groundup.data.dedup.passages import PassageWriter
from groundup.data.document import Document, Dropped, Read
from groundup.data.funnel import Funnel
from groundup.data.licence import Licences, expand, is_allowed
from groundup.data.place import Input
from groundup.data.readers import reader
from groundup.data.readers.options import Options
from groundup.data.rows import CLEAN, UNIT_BITS, Writer, write_json
from groundup.data.seen import hash_once
from groundup.recipe.data import DataSection, Source

NO_WORD = re.compile(r"\W+")
NO_LETTERS = bytes(byte for byte in range(128) if NO_WORD.match(chr(byte)))
LOWER = bytes(byte + 32 if 65 <= byte <= 90 else byte for byte in range(256))
"""Most of a text is ASCII: bytes go through a table many times faster than characters through an expression."""


def work(task: dict[str, Any]) -> dict[str, Any]:
    """Read and clean one unit: writes NNNNN.parquet, then NNNNN.json, whose presence says that everything is
    whole.

    Beside it stand the keys by which documents and passages are compared, document after document: NNNNN.keys
    and, where the recipe asks, NNNNN.paragraphs or NNNNN.runs.
    """
    section = DataSection.model_validate(task["section"])
    source = Source.model_validate(task["source"])
    machine = Machine(cache=Path(task["cache"]), offline=task["offline"], threads=1)
    weights, evaluation = (Path(task[name]) if task[name] else None for name in ("weights", "evaluation"))
    bench = Bench(weights, evaluation)
    todo = steps(section, source, bench)
    options = Options(source.column, section.extraction, expand(section.code.licenses))
    folder, number = Path(task["folder"]), task["number"]
    funnel = Funnel(languages=bench.languages)
    stem = folder / f"{number:05d}"
    keys, passages = KeyWriter(section.minhash, task["seed"], stem), PassageWriter(section, source.kind, stem)
    hits: list[dict[str, str]] = []
    inputs: list[dict[str, Any]] = []
    writer = Writer(folder / f"{number:05d}.parquet", CLEAN)
    for file in (Input(name, Path(path), *rest) for name, path, *rest in task["files"]):
        path = file.fetch(machine)
        inputs.append({"name": file.name, "bytes": path.stat().st_size, "sha256": hash_once(path, machine)})
        for found in documents(source.kind, file, options):
            amount = size(found.text)
            result = found if isinstance(found, Dropped) else clean(found, todo, funnel.change)
            if isinstance(result, Dropped):
                funnel.drop(result, amount)
                hits += [{"source": source.name, "id": found.id, "item": item} for item in bench.hits]
                bench.hits.clear()
                continue
            row = _row(result, source.name, (number << UNIT_BITS) + funnel.kept[0])
            writer.add(row)
            keys.add(row["key"], result.text)
            funnel.keep(result, amount)
            passages.add(result.text)
        if file.url is not None and not task["keep_downloads"]:
            path.unlink(missing_ok=True)
    for part in (writer, keys, passages):
        part.close()
    answer = {"funnel": asdict(funnel), "inputs": inputs, "hits": hits}
    write_json(folder / f"{number:05d}.json", answer)
    return {"number": number, "documents": funnel.read[0]}


def _row(document: Document, source: str, ordinal: int) -> dict[str, Any]:
    text = document.text
    return {
        "ordinal": ordinal, "source": source, "id": document.id, "text": text, "key": key(text), "bytes": size(text),
    }  # fmt: skip


def documents(kind: str, file: Input, options: Options) -> Iterator[Read]:
    """Everything that a reader finds in a file. What is broken is a drop, not the end of the run."""
    read = reader(kind)
    refused: list[str] = []
    try:
        licences = Licences(file) if kind == "code" and options.licenses else None
        for member in file.open(refused):
            if member.size == 0:
                yield Dropped("empty_file", member.name)
                continue
            try:
                for found in read(member.name, member.stream, options):
                    yield found if licences is None else _licensed(found, licences, options.licenses)
            except Exception as error:  # whatever a parser says of one file, the next one is another matter
                yield Dropped("broken_file", member.name, f"{type(error).__name__}: {error}")
    except UserError as error:
        yield Dropped("broken_archive", file.name, error.message)
    yield from (Dropped("unsafe_name", name) for name in refused)


def _licensed(found: Read, licences: Licences, allowed: frozenset[str]) -> Read:
    if isinstance(found, Dropped):
        return found
    licence = licences.of(found.id, found.text)
    return found if is_allowed(licence, allowed) else Dropped(f"licence: {licence}", found.id, found.text)


def key(text: str) -> int:
    """64 bits that texts share when they differ only in case, punctuation and spaces."""
    letters = text.encode("utf-8", "surrogatepass").translate(LOWER, NO_LETTERS)
    if not letters.isascii():
        letters = NO_WORD.sub("", letters.decode("utf-8", "surrogatepass").lower()).encode(
            "utf-8", "surrogatepass"
        )
    if not letters:
        letters = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(letters, digest_size=8).digest(), "little")
