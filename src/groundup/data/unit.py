"""The first pass: one file of a source, read and cleaned to one parquet file."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.data.clean.steps import clean, size, steps
from groundup.data.document import Dropped, Read
from groundup.data.funnel import Funnel
from groundup.data.place import Input
from groundup.data.readers import reader
from groundup.data.rows import CLEAN, UNIT_BITS, Writer, write_json
from groundup.recipe.data import DataSection

NO_WORD = re.compile(r"\W+")


def work(task: dict[str, Any]) -> dict[str, Any]:
    """Read and clean unit `number`: writes NNNNN.parquet, and then NNNNN.json, whose presence says that both are whole."""
    section = DataSection.model_validate(task["section"])
    source = next(source for source in section.sources if source.name == task["source"])
    files = [
        Input(name, Path(path), members, is_package) for name, path, members, is_package in task["files"]
    ]
    folder, number = Path(task["folder"]), task["number"]
    todo = steps(section, source.kind)
    funnel = Funnel()
    writer = Writer(folder / f"{number:05d}.parquet", CLEAN)
    row = 0
    for found in documents(source.kind, files):
        amount = size(found.text)
        result = found if isinstance(found, Dropped) else clean(found, todo, funnel.trimmed)
        if isinstance(result, Dropped):
            funnel.drop(result, amount)
            continue
        funnel.keep(result, amount)
        writer.add({
            "ordinal": (number << UNIT_BITS) + row, "source": source.name, "id": result.id, "text": result.text,
            "key": key(result.text),
        })  # fmt: skip
        row += 1
    writer.close()
    write_json(folder / f"{number:05d}.json", asdict(funnel))
    return {"number": number, "read": funnel.read, "kept": funnel.kept}


def documents(kind: str, files: list[Input]) -> Iterator[Read]:
    """Everything that a reader finds in these files. A broken file is a drop, not the end of the run."""
    read = reader(kind)
    for file in files:
        try:
            for member in file.open():
                try:
                    yield from read(member.name, member.stream)
                except (OSError, EOFError, ValueError) as error:
                    yield Dropped("broken_file", member.name, str(error))
        except UserError as error:
            yield Dropped("broken_archive", file.name, error.message)


def key(text: str) -> bytes:
    """16 bytes that texts share when they differ only in case, punctuation and spaces."""
    words = NO_WORD.sub("", text).lower() or text
    return hashlib.blake2b(words.encode(), digest_size=16).digest()
