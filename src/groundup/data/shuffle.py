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
from groundup.data.clean.cleaning_steps import utf8_bytes
from groundup.data.dedup.duplicates import KEEP, REASONS
from groundup.data.dedup.passages import remove_ngrams, remove_paragraphs, repeat_flags
from groundup.data.document import DroppedDocument
from groundup.data.filter_stats import FilterStats
from groundup.data.work_files import FINAL_SCHEMA, DocumentWriter, write_json_atomically

PARTITION_SCHEMA = FINAL_SCHEMA.append(pyarrow.field("order", pyarrow.binary(16)))
PARTITION_BUFFER_BYTES = 256 << 20
"""Text that routing holds before it writes what it has: more row groups, the same result."""


def partition_unit(task: dict[str, Any]) -> dict[str, Any]:
    """Take out of unit `number` what the second pass judged, and sort what stays by where it goes."""
    clean, folder, number = Path(task["clean"]), Path(task["folder"]), task["unit"]
    codes = numpy.load(folder / f"{number:05d}.codes.npy")
    split_keys = numpy.load(folder / f"{number:05d}.splits.npy")
    cuts = PassageRemover(clean / f"{number:05d}", task["ngram_words"])
    funnel = FilterStats()
    writer = DocumentWriter(folder / f"{number:05d}.parquet", PARTITION_SCHEMA)
    groups: list[int] = []
    places: dict[int, list[dict[str, Any]]] = {}
    held = 0

    def flush() -> None:
        for where in sorted(places):
            writer.rows = places[where]
            writer.flush()
            groups.append(where)
        places.clear()

    for index, row in enumerate(_iter_rows(clean / f"{number:05d}.parquet")):
        code = int(codes[index])
        text = cuts.remove(row["id"], row["text"], funnel if code == KEEP else FilterStats())
        if code != KEEP:
            funnel.drop_kept(DroppedDocument(REASONS[code], row["id"], row["text"]))
            continue
        if not text.strip():
            funnel.drop_kept(DroppedDocument("all_passages_repeated", row["id"], text))
            continue
        held_out = hash_fraction(b"split", int(split_keys[index])) < task["validation_fraction"]
        copies = 1 if held_out else num_copies(row["key"], task["epochs"])
        if copies == 0:
            funnel.drop_kept(DroppedDocument("not_sampled", row["id"], text))
            continue
        funnel.add_length(text)
        for copy in range(copies):
            order = hashlib.blake2b(
                f"{task['seed']} {row['ordinal']} {copy}".encode(), digest_size=16
            ).digest()
            split = "validation" if held_out else "train"
            where = partition_id(split, int.from_bytes(order[:8], "big") % task["shards"][split])
            final = {"text": text, "source": row["source"], "id": row["id"], "order": order}
            places.setdefault(where, []).append(final)
            held += len(text)
        if held > PARTITION_BUFFER_BYTES:
            flush()
            held = 0
    flush()
    writer.close()
    write_json_atomically(folder / f"{number:05d}.json", {"groups": groups, "stats": asdict(funnel)})
    return {"unit": number}


def partition_id(split: str, number: int) -> int:
    """One number for each file of the result: those of the validation split count down from -1."""
    return number if split == "train" else -1 - number


class PassageRemover:
    """The passages that are to be cut from each document of a unit, in the documents' order."""

    def __init__(self, stem: Path, ngram_words: int):
        self.ngram_words = ngram_words
        self.paragraph_flags = repeat_flags(stem, "paragraphs")
        self.ngram_flags = repeat_flags(stem, "ngrams")

    def remove(self, id: str, text: str, stats: FilterStats) -> str:
        """The next document without its repeated passages; counts the bytes that go."""
        after, rule = text, ""
        if self.ngram_flags is not None:  # runs first: their places count in the words of the whole text
            after, rule = remove_ngrams(text, next(self.ngram_flags), self.ngram_words), "repeated_ngrams"
        elif self.paragraph_flags is not None:
            after, rule = remove_paragraphs(text, next(self.paragraph_flags)), "repeated_paragraphs"
        if after != text:
            stats.change_kept(rule, id, text, after)
        return after


def merge_partition(task: dict[str, Any]) -> dict[str, Any]:
    """Write one file of the result: everything that was routed to it, in hash order."""
    folder, target, where = Path(task["folder"]), Path(task["target"]), task["partition"]
    tables = [PARTITION_SCHEMA.empty_table()]
    for number in task["units"]:
        groups = json.loads((folder / f"{number:05d}.json").read_text())["groups"]
        wanted = [index for index, group in enumerate(groups) if group == where]
        if wanted:
            with pyarrow.parquet.ParquetFile(folder / f"{number:05d}.parquet") as file:
                tables.append(file.read_row_groups(wanted).cast(PARTITION_SCHEMA))
    table = pyarrow.concat_tables(tables).sort_by("order")
    writer = DocumentWriter(target, FINAL_SCHEMA)
    counts: dict[str, list[int]] = {}
    for batch in table.to_batches(max_chunksize=256):
        for row in batch.to_pylist():
            writer.add({name: row[name] for name in FINAL_SCHEMA.names})
            pair = counts.setdefault(row["source"], [0, 0])
            pair[0] += 1
            pair[1] += utf8_bytes(row["text"])
    writer.close()
    written = {"name": f"{target.parent.name}/{target.name}", "sha256": hash_file(target), "sources": counts}
    write_json_atomically(folder / f"{where}.written.json", written)
    return {"partition": where}


def _iter_rows(path: Path) -> Iterator[dict[str, Any]]:
    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=256):
            yield from batch.to_pylist()


def hash_fraction(purpose: bytes, key: int) -> float:
    """A number from 0 to 1 that depends on the key alone and is evenly spread; another one for each purpose."""
    return (
        int.from_bytes(hashlib.blake2b(purpose + key.to_bytes(8, "little"), digest_size=8).digest(), "big")
        / 2**64
    )


def num_copies(key: int, epochs: float) -> int:
    """How often a document is seen in one pass: the whole part of the weight, and once more for that share of
    them.
    """
    whole = int(epochs)
    return whole + (hash_fraction(b"mix", key) < epochs - whole)
