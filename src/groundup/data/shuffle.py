"""The last passes: split, mix and shuffle a corpus that does not fit into memory.

Each unit's surviving rows are written once more, in row groups by the file of the result that they go to;
then each file gathers its row groups and sorts them by a hash. What stands where follows from the seed and
the texts alone.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.parquet

from groundup.artifacts.fingerprint import hash_file
from groundup.data.clean.steps import size
from groundup.data.dedup.passages import cut_paragraphs, cut_runs, marks
from groundup.data.dedup.verdicts import KEEP, REASONS
from groundup.data.document import Dropped
from groundup.data.funnel import Funnel
from groundup.data.rows import FINAL, Writer, write_json

ROUTED = FINAL.append(pyarrow.field("order", pyarrow.binary(16)))
HELD_BYTES = 256 << 20
"""Text that routing holds before it writes what it has: more row groups, the same result."""


def route(task: dict[str, Any]) -> dict[str, Any]:
    """Take out of unit `number` what the second pass judged, and sort what stays by where it goes."""
    clean, folder, number = Path(task["clean"]), Path(task["folder"]), task["number"]
    codes = numpy.load(folder / f"{number:05d}.codes.npy")
    split_keys = numpy.load(folder / f"{number:05d}.splits.npy")
    cuts = Cuts(clean / f"{number:05d}", task["run_words"])
    funnel = Funnel()
    writer = Writer(folder / f"{number:05d}.parquet", ROUTED)
    groups: list[int] = []
    places: dict[int, list[dict[str, Any]]] = {}
    held = 0

    def flush() -> None:
        for where in sorted(places):
            writer.rows = places[where]
            writer.flush()
            groups.append(where)
        places.clear()

    for index, row in enumerate(_rows(clean / f"{number:05d}.parquet")):
        code = int(codes[index])
        text = cuts.apply(row["id"], row["text"], funnel if code == KEEP else Funnel())
        if code != KEEP:
            funnel.later(Dropped(REASONS[code], row["id"], row["text"]))
            continue
        if not text.strip():
            funnel.later(Dropped("all_passages_repeated", row["id"], text))
            continue
        held_out = share(b"split", int(split_keys[index])) < task["validation_fraction"]
        copies = 1 if held_out else copies_of(row["key"], task["weight"])
        if copies == 0:
            funnel.later(Dropped("not_sampled", row["id"], text))
            continue
        funnel.stay(text)
        for copy in range(copies):
            order = hashlib.blake2b(
                f"{task['seed']} {row['ordinal']} {copy}".encode(), digest_size=16
            ).digest()
            split = "validation" if held_out else "train"
            where = place(split, int.from_bytes(order[:8], "big") % task["shards"][split])
            final = {"text": text, "source": row["source"], "id": row["id"], "order": order}
            places.setdefault(where, []).append(final)
            held += len(text)
        if held > HELD_BYTES:
            flush()
            held = 0
    flush()
    writer.close()
    write_json(folder / f"{number:05d}.json", {"groups": groups, "funnel": asdict(funnel)})
    return {"number": number}


def place(split: str, number: int) -> int:
    """One number for each file of the result: those of the validation split count down from -1."""
    return number if split == "train" else -1 - number


class Cuts:
    """The passages that are to be cut from each document of a unit, in the documents' order."""

    def __init__(self, stem: Path, run_words: int):
        self.run_words = run_words
        self.paragraphs = marks(stem, "paragraphs")
        self.runs = marks(stem, "runs")

    def apply(self, id: str, text: str, funnel: Funnel) -> str:
        """The next document without its repeated passages; counts the bytes that go."""
        after, rule = text, ""
        if self.runs is not None:  # runs first: their places count in the words of the whole text
            after, rule = cut_runs(text, next(self.runs), self.run_words), "repeated_runs"
        elif self.paragraphs is not None:
            after, rule = cut_paragraphs(text, next(self.paragraphs)), "repeated_paragraphs"
        if after != text:
            funnel.cut(rule, id, text, after)
        return after


def gather(task: dict[str, Any]) -> dict[str, Any]:
    """Write one file of the result: everything that was routed to it, in hash order."""
    folder, target, where = Path(task["folder"]), Path(task["target"]), task["place"]
    tables = [ROUTED.empty_table()]
    for number in task["units"]:
        groups = json.loads((folder / f"{number:05d}.json").read_text())["groups"]
        wanted = [index for index, group in enumerate(groups) if group == where]
        if wanted:
            with pyarrow.parquet.ParquetFile(folder / f"{number:05d}.parquet") as file:
                tables.append(file.read_row_groups(wanted).cast(ROUTED))
    table = pyarrow.concat_tables(tables).sort_by("order")
    writer = Writer(target, FINAL)
    counts: dict[str, list[int]] = {}
    for batch in table.to_batches(max_chunksize=256):
        for row in batch.to_pylist():
            writer.add({name: row[name] for name in FINAL.names})
            pair = counts.setdefault(row["source"], [0, 0])
            pair[0] += 1
            pair[1] += size(row["text"])
    writer.close()
    written = {"name": f"{target.parent.name}/{target.name}", "sha256": hash_file(target), "sources": counts}
    write_json(folder / f"{where}.written.json", written)
    return {"place": where}


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=256):
            yield from batch.to_pylist()


def share(purpose: bytes, key: int) -> float:
    """A number from 0 to 1 that depends on the key alone and is evenly spread; another one for each purpose."""
    return (
        int.from_bytes(hashlib.blake2b(purpose + key.to_bytes(8, "little"), digest_size=8).digest(), "big")
        / 2**64
    )


def copies_of(key: int, weight: float) -> int:
    """How often a document is seen in one pass: the whole part of the weight, and once more for that share of
    them.
    """
    whole = int(weight)
    return whole + (share(b"mix", key) < weight - whole)
