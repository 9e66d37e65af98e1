"""Last passes of the data stage: split, mix and shuffle a corpus that does not fit into memory.

Partition: each unit's remaining rows are written again, grouped by output file. Merge: each output file collects its
row groups and sorts them by a hash. The result depends on the seed and the texts alone.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy
import pyarrow

from groundup.artifacts.fingerprint import hash_file
from groundup.data.clean.cleaning_steps import utf8_bytes
from groundup.data.decontaminate import EvaluationIndex, contamination_filter
from groundup.data.dedup.duplicates import DROP_REASONS, KEEP
from groundup.data.dedup.passages import remove_ngrams, remove_paragraphs, repeat_flags
from groundup.data.document import DroppedDocument
from groundup.data.filter_stats import FilterStats
from groundup.data.stable_hash import hash_fraction
from groundup.data.validation_split import SourceSplit
from groundup.data.work_files import FINAL_SCHEMA, DocumentWriter, iter_rows, open_parquet, write_json_atomically

PARTITION_SCHEMA = FINAL_SCHEMA.append(pyarrow.field("order", pyarrow.binary(16)))
REPEAT_RULE = "8-gram"
"""Rule of data.decontaminate by which a training paragraph repeats a validation paragraph."""
PARTITION_BUFFER_BYTES = 256 << 20
"""Text buffered before row groups are written. Does not change the result."""


def validation_paragraphs(task: dict[str, Any]) -> dict[str, Any]:
    """Pairs (document id, paragraph) of the validation text of a unit whose source is split by spans."""
    split, offset = SourceSplit(**task["split"]), task["offset"]
    found = []
    for _, row, text in _remaining_rows(task, FilterStats()):
        for part, paragraphs in split.segments(text, offset):
            found += [(row["id"], paragraph) for paragraph in paragraphs if part == "validation"]
        offset += row["bytes"]
    return {"paragraphs": found}


def partition_unit(task: dict[str, Any]) -> dict[str, Any]:
    """Remove the duplicates of a unit and group its remaining rows by output file."""
    folder, name = Path(task["folder"]), f"{task['unit']:05d}"
    split_keys = numpy.load(folder / f"{name}.splits.npy")
    split, offset = SourceSplit(**task["split"]), task["offset"]
    repeats_validation = _repeats_validation(task["validation_index"])
    stats = FilterStats()
    writer = DocumentWriter(folder / f"{name}.parquet", PARTITION_SCHEMA)
    groups: list[int] = []
    buffers: dict[int, list[dict[str, Any]]] = {}
    buffered = 0

    def flush() -> None:
        for partition in sorted(buffers):
            writer.rows = buffers[partition]
            writer.flush()
            groups.append(partition)
        buffers.clear()

    for index, row, text in _remaining_rows(task, stats):
        copies = num_copies(row["key"], task["epochs"])
        if split.span_bytes is None:
            segments = [("validation" if split.holds_out(split_keys[index]) else "train", text)]
        else:
            segments = _span_segments(split, offset, row["id"], text, repeats_validation, stats)
            offset += row["bytes"]
        segments = [(part, segment) for part, segment in segments if part == "validation" or copies]
        if not segments:
            stats.drop_kept(DroppedDocument("not_sampled", row["id"], text))
            continue
        stats.add_length(text)
        for number, (part, segment) in enumerate(segments):
            place = f" {number}" if split.span_bytes else ""
            for copy in range(1 if part == "validation" else copies):
                order_text = f"{task['seed']} {row['ordinal']} {copy}{place}"
                order = hashlib.blake2b(order_text.encode(), digest_size=16).digest()
                partition = partition_id(part, int.from_bytes(order[:8], "big") % task["shards"][part])
                id = f"{row['id']}#{number}" if len(segments) > 1 else row["id"]
                output = {"text": segment, "source": row["source"], "id": id, "license": row["license"], "order": order}
                buffers.setdefault(partition, []).append(output)
                buffered += len(segment)
        if buffered > PARTITION_BUFFER_BYTES:
            flush()
            buffered = 0
    flush()
    writer.close()
    write_json_atomically(folder / f"{name}.json", {"groups": groups, "stats": asdict(stats)})
    return {"unit": task["unit"]}


def _remaining_rows(task: dict[str, Any], stats: FilterStats) -> Iterator[tuple[int, dict[str, Any], str]]:
    """(index, row, text) of the documents of a unit that are no duplicates, without repeated passages."""
    clean, name = Path(task["clean"]), f"{task['unit']:05d}"
    codes = numpy.load(Path(task["folder"]) / f"{name}.codes.npy")
    remover = PassageRemover(clean / name, task["ngram_words"])
    for index, row in enumerate(iter_rows(clean / f"{name}.parquet")):
        code = int(codes[index])
        text = remover.remove(row["id"], row["text"], stats if code == KEEP else FilterStats())
        if code != KEEP:
            stats.drop_kept(DroppedDocument(DROP_REASONS[code], row["id"], row["text"]))
        elif not text.strip():
            stats.drop_kept(DroppedDocument("all_passages_repeated", row["id"], text))
        else:
            yield index, row, text


def _span_segments(
    split: SourceSplit, offset: int, id: str, text: str, repeats_validation: Callable[[str], bool], stats: FilterStats
) -> list[tuple[str, str]]:
    """(split, text) of the parts of a document; training text without paragraphs that repeat validation text."""
    segments, used = [], []
    for part, paragraphs in split.segments(text, offset):
        if part == "train":
            paragraphs = [paragraph for paragraph in paragraphs if not repeats_validation(paragraph)]
        used += paragraphs
        if segment := "".join(paragraphs).strip("\n"):
            segments.append((part, segment))
    if (after := "".join(used)) != text:
        stats.change_kept("repeats_validation", id, text, after)
    return segments


def _repeats_validation(index: str | None) -> Callable[[str], bool]:
    """Whether a paragraph contains most of the 8-grams of a validation paragraph."""
    if index is None:
        return lambda paragraph: False
    drop_reason = contamination_filter(EvaluationIndex.load(Path(index)), REPEAT_RULE, [])
    return lambda paragraph: drop_reason(paragraph) is not None


def partition_id(split: str, shard: int) -> int:
    """Number of an output file: 0, 1, ... for train, -1, -2, ... for validation."""
    return shard if split == "train" else -1 - shard


class PassageRemover:
    """Removes the repeated passages of a unit's documents, which must come in the unit's order."""

    def __init__(self, stem: Path, ngram_words: int):
        self.ngram_words = ngram_words
        self.paragraph_flags = repeat_flags(stem, "paragraphs")
        self.ngram_flags = repeat_flags(stem, "ngrams")

    def remove(self, id: str, text: str, stats: FilterStats) -> str:
        """The next document without its repeated passages, counted in `stats`."""
        after, rule = text, ""
        if self.ngram_flags is not None:
            after, rule = remove_ngrams(text, next(self.ngram_flags), self.ngram_words), "repeated_ngrams"
        elif self.paragraph_flags is not None:
            after, rule = remove_paragraphs(text, next(self.paragraph_flags)), "repeated_paragraphs"
        if after != text:
            stats.change_kept(rule, id, text, after)
        return after


def merge_partition(task: dict[str, Any]) -> dict[str, Any]:
    """Write one output file: all rows of its partition, in hash order."""
    folder, target, partition = Path(task["folder"]), Path(task["target"]), task["partition"]
    tables = [PARTITION_SCHEMA.empty_table()]
    for unit in task["units"]:
        groups = json.loads((folder / f"{unit:05d}.json").read_text())["groups"]
        indices = [index for index, group in enumerate(groups) if group == partition]
        if indices:
            with open_parquet(folder / f"{unit:05d}.parquet") as file:
                tables.append(file.read_row_groups(indices).cast(PARTITION_SCHEMA))
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
    write_json_atomically(folder / f"{partition}.written.json", written)
    return {"partition": partition}


def num_copies(key: int, epochs: float) -> int:
    """Copies of a document in the mix: floor(epochs), plus one for a fraction of the documents."""
    full_epochs = int(epochs)
    return full_epochs + (hash_fraction(f"mix {key}") < epochs - full_epochs)
