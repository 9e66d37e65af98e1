"""01-data: from sources to train/ and validation/, every drop counted.

Four passes: read and clean (each unit by itself); judge (which documents and passages repeat others); route
(split, mix); gather (shuffle). Whatever a pass writes is whole or absent, so that a killed run continues with
what is missing.
"""

import json
import shutil
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy

from groundup.artifacts.errors import UserError
from groundup.artifacts.fingerprint import fingerprint
from groundup.artifacts.machine import Machine
from groundup.data import engine, shuffle, telling, unit, units
from groundup.data.clean import classifier
from groundup.data.decontaminate import Index
from groundup.data.dedup import verdicts
from groundup.data.dedup.verdicts import KEEP, Verdicts
from groundup.data.document import Document
from groundup.data.funnel import Funnel
from groundup.data.place import resolve
from groundup.data.readers.options import Options
from groundup.data.units import Unit
from groundup.recipe.data import DataSection, Files

MOVED_BYTES = 100e6
"""Of text that one worker routes and gathers in the time that two need to start."""


def run(recipe: Any, inputs: dict[str, Path], out: Path, machine: Machine) -> dict[str, Any]:
    """Write train/*.parquet, validation/*.parquet, dropped/*.jsonl, changed/*.jsonl, clusters.jsonl and contaminated.jsonl.

    Reads recipe.data and recipe.seed; returns the funnel, and as "fingerprint" what the corpus is: equal ones hold
    the same texts in the same order. Raises UserError for a source that yields nothing.
    """
    section: DataSection = recipe.data
    workers = engine.start(section.engine, machine.threads)
    work = out / "work"
    todo = units.cut(section, machine, recipe.seed)
    read_and_clean(section, todo, work, recipe.seed, machine, workers)
    found = Found.read(section, todo, work / "clean")
    judged = judge(section, found.counts, work, machine)
    weights = _weights(section, todo, found.counts, judged, work)
    shards = _shards(section, weights)
    workers = engine.worth(workers, sum(size for _, size in weights.values()), MOVED_BYTES)
    route(section, todo, found.counts, judged, weights, shards, recipe.seed, work, workers)
    written, corpus = gather(todo, shards, out, workers)
    for task in _own(todo):
        found.funnels[task.source.name].merge(
            Funnel(**_json(work / "routed" / f"{task.name}.json")["funnel"])
        )
    telling.write_samples(found.funnels, out)
    telling.write_clusters(judged, todo, found.counts, work / "clean", out / "clusters.jsonl")
    telling.write_lines(found.hits, out / "contaminated.jsonl")
    epochs = {name: epochs for name, (epochs, _) in weights.items()}
    metrics = telling.metrics(section, found.funnels, found.inputs, epochs, written)
    metrics |= {
        "repeats": verdicts.cluster_counts(judged),
        "contaminated": len(found.hits),
        "fingerprint": corpus,
    }
    shutil.rmtree(work)
    return metrics


def read_and_clean(
    section: DataSection, todo: list[Unit], work: Path, seed: int, machine: Machine, workers: int
) -> None:
    """The first pass."""
    folder = work / "clean"
    folder.mkdir(parents=True, exist_ok=True)
    weights = _train_classifier(section, work, seed, machine)
    evaluation = _index_evaluation(section, work, machine)
    missing = [task for task in todo if not (folder / f"{task.name}.json").exists()]
    sizes = {task.number: task.bytes for task in todo}
    tasks = [
        units.task(
            task, section, folder, seed, machine,
            weights=weights and str(weights),
            evaluation=None if evaluation is None or task.is_previous else str(evaluation),
        )
        for task in missing
    ]  # fmt: skip
    total = sum(sizes.values())
    with machine.progress.task("read and clean", total=total or None, unit="bytes") as progress:
        progress.start_at(total - sum(sizes[task.number] for task in missing))
        documents = 0
        for answer in engine.map_units(unit.work, tasks, workers):
            documents += answer["documents"]
            progress.note(f"{documents} documents")
            progress.advance(sizes[answer["number"]])


@dataclass
class Found:
    """What the first pass says of all units, put together one by one: thousands of them would fill the memory.

    Attributes:
        counts: documents that passed, by unit.
        funnels: by source.
        inputs: the files that were read, by source.
        hits: evaluation items that were found.
    """

    counts: dict[int, int]
    funnels: dict[str, Funnel]
    inputs: dict[str, telling.Inputs]
    hits: list[dict[str, str]]

    @classmethod
    def read(cls, section: DataSection, todo: list[Unit], clean: Path) -> "Found":
        """Raises UserError for a source without a document."""
        names = [source.name for source in section.sources]
        found = cls({}, {name: Funnel() for name in names}, {name: telling.Inputs() for name in names}, [])
        for task in todo:
            answer = _json(clean / f"{task.name}.json")
            funnel = Funnel(**answer["funnel"])
            found.counts[task.number] = funnel.kept[0]
            if not task.is_previous:
                found.funnels[task.source.name].merge(funnel)
                found.inputs[task.source.name].add(answer["inputs"])
                found.hits += answer["hits"]
        for name, funnel in found.funnels.items():
            if funnel.kept[0] == 0:
                reasons = ", ".join(
                    f"{counts[0]} {reason}" for reason, counts in sorted(funnel.dropped.items())
                )
                raise UserError(
                    f"source {name} yields no text: {reasons or 'no document in its files'}",
                    hint="check its kind and path, or loosen the rules in [data]",
                )
        return found


def judge(section: DataSection, counts: dict[int, int], work: Path, machine: Machine) -> Verdicts:
    """The second pass."""
    path = work / "verdicts.npz"
    if path.exists():
        with numpy.load(path, allow_pickle=False) as stored:
            return Verdicts(stored["codes"], stored["roots"])
    judged = verdicts.judge(section, work / "clean", counts, machine)
    partial = work / ".verdicts.part"
    with partial.open("wb") as file:
        numpy.savez(file, codes=judged.codes, roots=judged.roots)
    partial.replace(path)
    return judged


def route(
    section: DataSection, todo: list[Unit], counts: dict[int, int], judged: Verdicts,
    weights: dict[str, tuple[float, int]], shards: dict[str, int], seed: int, work: Path, workers: int,
) -> None:  # fmt: skip
    """The third pass."""
    folder = work / "routed"
    folder.mkdir(exist_ok=True)
    keys = telling.column(todo, work / "clean", "key", numpy.uint64)
    tasks = []
    for task, start, stop in _spans(todo, counts):
        if task.is_previous or (folder / f"{task.name}.json").exists():
            continue
        numpy.save(folder / f"{task.name}.codes.npy", judged.codes[start:stop])
        numpy.save(folder / f"{task.name}.splits.npy", keys[judged.roots[start:stop]])
        tasks.append({
            "number": task.number, "clean": str(work / "clean"), "folder": str(folder), "shards": shards, "seed": seed,
            "weight": weights[task.source.name][0], "validation_fraction": section.validation_fraction,
            "run_words": section.substring.words,
        })  # fmt: skip
    for _ in engine.map_units(shuffle.route, tasks, workers):
        pass


def gather(
    todo: list[Unit], shards: dict[str, int], out: Path, workers: int
) -> tuple[dict[str, dict[str, Any]], str]:
    """The fourth pass. Returns documents and bytes by split and source, and the fingerprint of all files."""
    folder = out / "work" / "routed"
    targets = {
        shuffle.place(split, number): out / split / f"{number:05d}.parquet"
        for split, count in shards.items()
        for number in range(count)
    }
    for folder_of_split in (out / "train", out / "validation"):
        folder_of_split.mkdir(exist_ok=True)
        for left_over in folder_of_split.glob(".*.part"):
            left_over.unlink()
    own = [task.number for task in _own(todo)]
    tasks = [
        {"folder": str(folder), "target": str(target), "place": place, "units": own}
        for place, target in targets.items()
        if not (target.exists() and (folder / f"{place}.written.json").exists())
    ]
    for _ in engine.map_units(shuffle.gather, tasks, workers):
        pass
    counted: dict[str, dict[str, Any]] = {"train": {}, "validation": {}}
    hashes = {}
    for place, target in targets.items():
        written = _json(folder / f"{place}.written.json")
        hashes[written["name"]] = written["sha256"]
        split = counted[target.parent.name]
        for source, (documents, size) in written["sources"].items():
            counts = split.setdefault(source, {"documents": 0, "bytes": 0})
            counts["documents"] += documents
            counts["bytes"] += size
    return counted, fingerprint(hashes)


def _shards(section: DataSection, weights: dict[str, tuple[float, int]]) -> dict[str, int]:
    """How many files each split has: each is put in order in memory, so none may be much larger than the rest."""
    total = sum(size for _, size in weights.values())
    sizes = {
        "train": sum(weight * size for weight, size in weights.values()),
        "validation": section.validation_fraction * total,
    }
    return {split: max(1, round(size / (1e6 * section.shard_megabytes))) for split, size in sizes.items()}


def _weights(
    section: DataSection, todo: list[Unit], counts: dict[int, int], judged: Verdicts, work: Path
) -> dict[str, tuple[float, int]]:
    """For each source its epochs, and its bytes after deduplication."""
    sizes = telling.column(todo, work / "clean", "bytes", numpy.int64)
    totals = {source.name: 0 for source in section.sources}
    for task, start, stop in _spans(todo, counts):
        if not task.is_previous:
            totals[task.source.name] += int(sizes[start:stop][judged.codes[start:stop] == KEEP].sum())
    return {
        source.name: (
            source.weight if source.tokens is None else 4e6 * source.tokens / max(totals[source.name], 1),
            totals[source.name],
        )
        for source in section.sources
    }


def _spans(todo: list[Unit], counts: dict[int, int]) -> list[tuple[Unit, int, int]]:
    """Each unit with the numbers of its first document and of the one behind its last."""
    ends = list(accumulate(counts[task.number] for task in todo))
    return list(zip(todo, [0, *ends], ends, strict=False))


def _train_classifier(section: DataSection, work: Path, seed: int, machine: Machine) -> Path | None:
    if section.classifier is None:
        return None
    path = work / "classifier.npy"
    if not path.exists():
        limit = section.classifier.max_examples
        good, bad = (
            _texts(section, places, limit, machine)
            for places in (section.classifier.good, section.classifier.bad)
        )
        partial = work / ".classifier.part"
        with partial.open("wb") as file:
            numpy.save(file, classifier.train(good, bad, seed))
        partial.replace(path)
    return path


def _index_evaluation(section: DataSection, work: Path, machine: Machine) -> Path | None:
    if not section.decontaminate.sets:
        return None
    path = work / "evaluation.npz"
    if not path.exists():
        items = (
            (f"{place.name}/{found.id}", found.text)
            for place in section.decontaminate.sets
            for found in _documents(section, place, machine)
        )
        partial = work / ".evaluation.part"
        Index.build(items, section.decontaminate.rule).save(partial)
        partial.replace(path)
    return path


def _texts(section: DataSection, places: tuple[Files, ...], limit: int, machine: Machine) -> list[str]:
    found = [document.text for place in places for document in _documents(section, place, machine)]
    if not found:
        raise UserError(
            f"{places[0].name}: no example in it", hint="data.classifier learns from good and bad texts"
        )
    return found[:limit]


def _documents(section: DataSection, place: Files, machine: Machine) -> list[Document]:
    options = Options(column=place.column, extraction=section.extraction)
    found = []
    for file in resolve(place, machine):
        found += [read for read in unit.documents(place.kind, file, options) if isinstance(read, Document)]
    return found


def _own(todo: list[Unit]) -> list[Unit]:
    return [task for task in todo if not task.is_previous]


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
