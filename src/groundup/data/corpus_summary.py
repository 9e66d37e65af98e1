"""What people want to see of a corpus: the funnel, examples of what fell, clusters of duplicates, what a
model will read.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import pyarrow.parquet

from groundup.data.dedup.duplicates import DedupDecisions, largest_clusters
from groundup.data.filter_stats import FilterStats
from groundup.data.work_units import WorkUnit
from groundup.recipe.data_config import DataConfig

MAX_LISTED_INPUTS = 100
CLUSTER_CHARACTERS = 300
BYTES_PER_TOKEN = 4
"""Of English, in a vocabulary of some ten thousand: good enough for a table of shares."""


@dataclass
class InputSummary:
    """The files of a source: how many, and the first ones with their sizes and hashes."""

    count: int = 0
    listed: list[dict[str, Any]] = field(default_factory=list)

    def add(self, files: list[dict[str, Any]]) -> None:
        """The files of one more unit."""
        self.count += len(files)
        self.listed += files[: MAX_LISTED_INPUTS - len(self.listed)]


def corpus_metrics(
    section: DataConfig, stats: dict[str, FilterStats], inputs: dict[str, InputSummary], epochs: dict[str, float],
    written: dict[str, dict[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    """The funnel of every source and of all, and the mix: what one pass over the training text holds."""
    total = FilterStats()
    nothing = {"documents": 0, "bytes": 0}
    sums = {
        split: {key: sum(counts[key] for counts in written[split].values()) for key in nothing}
        for split in ("train", "validation")
    }
    sources = {}
    for source in section.sources:
        funnel = stats[source.name]
        total.merge(funnel)
        train = written["train"].get(source.name, nothing)
        sources[source.name] = {
            "kind": source.kind,
            "inputs": inputs[source.name].listed,
            "input_files": inputs[source.name].count,
            **funnel.as_metrics(),
            "epochs": round(epochs[source.name], 6),
            "train": train,
            "validation": written["validation"].get(source.name, nothing),
            "byte_fraction": round(train["bytes"] / max(sums["train"]["bytes"], 1), 6),
            "tokens_estimated": train["bytes"] // BYTES_PER_TOKEN,
        }
    return {"sources": sources, "total": {**total.as_metrics(), **sums}}


def write_samples(stats: dict[str, FilterStats], out: Path) -> None:
    """dropped/SOURCE.jsonl and changed/SOURCE.jsonl: a few documents for each reason and rule, for people to look at."""
    for folder in ("dropped", "changed"):
        (out / folder).mkdir(exist_ok=True)
    for name, funnel in stats.items():
        write_jsonl(_labelled_samples("reason", funnel.samples), out / "dropped" / f"{name}.jsonl")
        write_jsonl(_labelled_samples("rule", funnel.changes), out / "changed" / f"{name}.jsonl")


def _labelled_samples(name: str, samples: dict[str, list[dict[str, str]]]) -> list[dict[str, str]]:
    return [{name: value, **sample} for value in sorted(samples) for sample in samples[value]]


def write_clusters(
    judged: DedupDecisions, todo: list[WorkUnit], counts: dict[int, int], clean: Path, target: Path
) -> None:
    """The largest clusters of equal and nearly equal documents, with the beginnings of three of each."""
    starts, total = [], 0
    for unit in todo:
        starts.append(total)
        total += counts[unit.index]
    lines = []
    for cluster in largest_clusters(judged):
        members = []
        for number in cluster["members"]:
            place = int(numpy.searchsorted(starts, number, side="right")) - 1
            row = _read_row(clean / f"{todo[place].name}.parquet", number - starts[place])
            members.append({**row, "text": row["text"][:CLUSTER_CHARACTERS]})
        lines.append({"size": cluster["size"], "members": members})
    write_jsonl(lines, target)


def write_jsonl(lines: Iterable[dict[str, Any]], target: Path) -> None:
    """As JSON lines; what is no character becomes '?'."""
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    target.write_bytes(text.encode("utf-8", "replace"))


def read_column(todo: list[WorkUnit], clean: Path, name: str, dtype: Any) -> Any:
    """One column of all clean files, in the order of the documents (N)."""
    parts = [numpy.zeros(0, dtype=dtype)]
    for unit in todo:
        table = pyarrow.parquet.read_table(clean / f"{unit.name}.parquet", columns=[name])
        parts.append(table[name].to_numpy().astype(dtype))
    return numpy.concatenate(parts)


def _read_row(path: Path, index: int) -> dict[str, str]:
    with pyarrow.parquet.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if index < rows:
                table = file.read_row_group(group, columns=["source", "id", "text"])
                return table.slice(index, 1).to_pylist()[0]
            index -= rows
    raise IndexError(f"{path.name} has no such row")
