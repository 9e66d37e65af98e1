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

from groundup.data.dedup.verdicts import Verdicts, clusters_to_show
from groundup.data.funnel import Funnel
from groundup.data.units import Unit
from groundup.recipe.data import DataSection

INPUTS_SHOWN = 100
CLUSTER_CHARACTERS = 300
BYTES_PER_TOKEN = 4
"""Of English, in a vocabulary of some ten thousand: good enough for a table of shares."""


@dataclass
class Inputs:
    """The files of a source: how many, and the first ones with their sizes and hashes."""

    count: int = 0
    first: list[dict[str, Any]] = field(default_factory=list)

    def add(self, files: list[dict[str, Any]]) -> None:
        """The files of one more unit."""
        self.count += len(files)
        self.first += files[: INPUTS_SHOWN - len(self.first)]


def metrics(
    section: DataSection, funnels: dict[str, Funnel], inputs: dict[str, Inputs], epochs: dict[str, float],
    written: dict[str, dict[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    """The funnel of every source and of all, and the mix: what one pass over the training text holds."""
    total = Funnel()
    nothing = {"documents": 0, "bytes": 0}
    sums = {
        split: {key: sum(counts[key] for counts in written[split].values()) for key in nothing}
        for split in ("train", "validation")
    }
    sources = {}
    for source in section.sources:
        funnel = funnels[source.name]
        total.merge(funnel)
        train = written["train"].get(source.name, nothing)
        sources[source.name] = {
            "kind": source.kind,
            "inputs": inputs[source.name].first,
            "input_files": inputs[source.name].count,
            **funnel.table(),
            "weight": round(epochs[source.name], 6),
            "train": train,
            "validation": written["validation"].get(source.name, nothing),
            "share": round(train["bytes"] / max(sums["train"]["bytes"], 1), 6),
            "tokens_estimated": train["bytes"] // BYTES_PER_TOKEN,
        }
    return {"sources": sources, "total": {**total.table(), **sums}}


def write_samples(funnels: dict[str, Funnel], out: Path) -> None:
    """dropped/SOURCE.jsonl and changed/SOURCE.jsonl: a few documents for each reason and rule, for people to look at."""
    for folder in ("dropped", "changed"):
        (out / folder).mkdir(exist_ok=True)
    for name, funnel in funnels.items():
        write_lines(_examples("reason", funnel.samples), out / "dropped" / f"{name}.jsonl")
        write_lines(_examples("rule", funnel.changes), out / "changed" / f"{name}.jsonl")


def _examples(name: str, samples: dict[str, list[dict[str, str]]]) -> list[dict[str, str]]:
    return [{name: value, **sample} for value in sorted(samples) for sample in samples[value]]


def write_clusters(
    judged: Verdicts, todo: list[Unit], counts: dict[int, int], clean: Path, target: Path
) -> None:
    """The largest clusters of equal and nearly equal documents, with the beginnings of three of each."""
    starts, total = [], 0
    for unit in todo:
        starts.append(total)
        total += counts[unit.number]
    lines = []
    for cluster in clusters_to_show(judged):
        members = []
        for number in cluster["members"]:
            place = int(numpy.searchsorted(starts, number, side="right")) - 1
            row = _row(clean / f"{todo[place].name}.parquet", number - starts[place])
            members.append({**row, "text": row["text"][:CLUSTER_CHARACTERS]})
        lines.append({"size": cluster["size"], "members": members})
    write_lines(lines, target)


def write_lines(lines: Iterable[dict[str, Any]], target: Path) -> None:
    """As JSON lines; what is no character becomes '?'."""
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    target.write_bytes(text.encode("utf-8", "replace"))


def column(todo: list[Unit], clean: Path, name: str, kind: Any) -> Any:
    """One column of all clean files, in the order of the documents (N)."""
    parts = [numpy.zeros(0, dtype=kind)]
    for unit in todo:
        table = pyarrow.parquet.read_table(clean / f"{unit.name}.parquet", columns=[name])
        parts.append(table[name].to_numpy().astype(kind))
    return numpy.concatenate(parts)


def _row(path: Path, index: int) -> dict[str, str]:
    with pyarrow.parquet.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if index < rows:
                table = file.read_row_group(group, columns=["source", "id", "text"])
                return table.slice(index, 1).to_pylist()[0]
            index -= rows
    raise IndexError(f"{path.name} has no such row")
