"""Metrics and sample files of a corpus: filter statistics, mixture, dropped and changed documents, duplicates."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy

from groundup.data.dedup.duplicates import DedupDecisions, largest_clusters
from groundup.data.dedup_estimate import BYTES_PER_TOKEN
from groundup.data.filter_stats import FilterStats
from groundup.data.validation_split import SourceSplit
from groundup.data.work_files import open_parquet
from groundup.data.work_units import WorkUnit
from groundup.recipe.data_config import DataConfig

MAX_LISTED_INPUTS = 100
CLUSTER_CHARACTERS = 300


@dataclass
class InputSummary:
    """Input files of a source: their number, and the first ones with size and hash."""

    count: int = 0
    listed: list[dict[str, Any]] = field(default_factory=list)

    def add(self, files: list[dict[str, Any]]) -> None:
        self.count += len(files)
        self.listed += files[: MAX_LISTED_INPUTS - len(self.listed)]

    def describe(self, shown: int = 3) -> str:
        """The number of files and the names of the first ones."""
        names = ", ".join(file["name"] for file in self.listed[:shown])
        return f"read {self.count} file{'s' * (self.count != 1)}: {names}{', ...' * (self.count > shown)}"


def corpus_metrics(
    config: DataConfig, stats: dict[str, FilterStats], inputs: dict[str, InputSummary], epochs: dict[str, float],
    splits: dict[str, SourceSplit], written: dict[str, dict[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    """Filter statistics of each source and in total, and the mixture: the training text of one pass by source."""
    total = FilterStats()
    zero = {"documents": 0, "bytes": 0}
    sums = {
        split: {key: sum(counts[key] for counts in written[split].values()) for key in zero}
        for split in ("train", "validation")
    }
    sources = {}
    for source in config.sources:
        total.merge(stats[source.name])
        train = written["train"].get(source.name, zero)
        sources[source.name] = {
            "kind": source.kind,
            "inputs": inputs[source.name].listed,
            "input_files": inputs[source.name].count,
            **stats[source.name].as_metrics(),
            "epochs": round(epochs[source.name], 6),
            "train": train,
            "validation": written["validation"].get(source.name, zero),
            "split": splits[source.name].as_json(),
            "byte_fraction": round(train["bytes"] / max(sums["train"]["bytes"], 1), 6),
            "tokens_estimated": train["bytes"] // BYTES_PER_TOKEN,
        }
    return {"sources": sources, "total": {**total.as_metrics(), **sums}}


def write_samples(stats: dict[str, FilterStats], out: Path) -> None:
    """dropped/SOURCE.jsonl and changed/SOURCE.jsonl: a few documents for each reason and step."""
    for folder in ("dropped", "changed"):
        (out / folder).mkdir(exist_ok=True)
    for name, source in stats.items():
        write_jsonl(_labelled_samples("reason", source.samples), out / "dropped" / f"{name}.jsonl")
        write_jsonl(_labelled_samples("rule", source.changes), out / "changed" / f"{name}.jsonl")


def _labelled_samples(label: str, samples: dict[str, list[dict[str, str]]]) -> list[dict[str, str]]:
    return [{label: value, **sample} for value in sorted(samples) for sample in samples[value]]


def write_clusters(
    decisions: DedupDecisions, units: list[WorkUnit], counts: dict[int, int], clean: Path, target: Path
) -> None:
    """The largest clusters of duplicates, with the beginnings of three members of each."""
    starts = numpy.cumsum([0, *(counts[unit.index] for unit in units)])[:-1]
    lines = []
    for cluster in largest_clusters(decisions):
        members = []
        for number in cluster["members"]:
            index = int(numpy.searchsorted(starts, number, side="right")) - 1
            row = _read_row(clean / f"{units[index].name}.parquet", number - int(starts[index]))
            members.append({**row, "text": row["text"][:CLUSTER_CHARACTERS]})
        lines.append({"size": cluster["size"], "members": members})
    write_jsonl(lines, target)


def write_jsonl(lines: Iterable[dict[str, Any]], target: Path) -> None:
    """JSON lines; lone surrogates become '?'."""
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    target.write_bytes(text.encode("utf-8", "replace"))


def read_column(units: list[WorkUnit], clean: Path, name: str, dtype: Any) -> Any:
    """One column of all clean files, in document order (N)."""
    arrays = [numpy.zeros(0, dtype=dtype)]
    for unit in units:
        with open_parquet(clean / f"{unit.name}.parquet") as file:
            arrays.append(file.read(columns=[name])[name].to_numpy().astype(dtype))
    return numpy.concatenate(arrays)


def _read_row(path: Path, index: int) -> dict[str, str]:
    with open_parquet(path) as file:
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if index < rows:
                table = file.read_row_group(group, columns=["source", "id", "text"])
                return table.slice(index, 1).to_pylist()[0]
            index -= rows
    raise IndexError(f"{path.name} has no such row")
