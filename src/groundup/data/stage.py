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
from groundup.data import corpus_summary, executor, process_unit, shuffle, work_units
from groundup.data.clean import classifier
from groundup.data.decontaminate import EvaluationIndex
from groundup.data.dedup import duplicates
from groundup.data.dedup.duplicates import KEEP, DedupDecisions
from groundup.data.document import Document
from groundup.data.filter_stats import FilterStats
from groundup.data.inputs import resolve_files
from groundup.data.readers.reader_options import ReaderOptions
from groundup.data.work_units import WorkUnit
from groundup.recipe.data_config import DataConfig, FilesConfig

SHUFFLE_BYTES_PER_WORKER = 100e6
"""Of text that one worker routes and gathers in the time that two need to start."""


def run(recipe: Any, inputs: dict[str, Path], out: Path, machine: Machine) -> dict[str, Any]:
    """Write train/*.parquet, validation/*.parquet, dropped/*.jsonl, changed/*.jsonl, clusters.jsonl and contaminated.jsonl.

    Reads recipe.data and recipe.seed; returns the funnel, and as "fingerprint" what the corpus is: equal ones hold
    the same texts in the same order. Raises UserError for a source that yields nothing.
    """
    section: DataConfig = recipe.data
    workers = executor.start_executor(section.executor, machine.threads)
    work = out / "work"
    todo = work_units.plan_units(section, machine, recipe.seed)
    read_and_clean(section, todo, work, recipe.seed, machine, workers)
    found = UnitResults.load(section, todo, work / "clean")
    judged = deduplicate(section, found.counts, work, machine)
    weights = _source_epochs(section, todo, found.counts, judged, work)
    shards = _num_shards(section, weights)
    workers = executor.useful_workers(
        workers, sum(size for _, size in weights.values()), SHUFFLE_BYTES_PER_WORKER
    )
    partition(section, todo, found.counts, judged, weights, shards, recipe.seed, work, workers)
    written, corpus = merge(todo, shards, out, workers)
    for task in _source_units(todo):
        found.stats[task.source.name].merge(
            FilterStats(**_read_json(work / "partitioned" / f"{task.name}.json")["stats"])
        )
    corpus_summary.write_samples(found.stats, out)
    corpus_summary.write_clusters(judged, todo, found.counts, work / "clean", out / "clusters.jsonl")
    corpus_summary.write_jsonl(found.contaminated, out / "contaminated.jsonl")
    epochs = {name: epochs for name, (epochs, _) in weights.items()}
    metrics = corpus_summary.corpus_metrics(section, found.stats, found.inputs, epochs, written)
    metrics |= {
        "duplicate_clusters": duplicates.cluster_stats(judged),
        "contaminated": len(found.contaminated),
        "fingerprint": corpus,
    }
    shutil.rmtree(work)
    return metrics


def read_and_clean(
    section: DataConfig, todo: list[WorkUnit], work: Path, seed: int, machine: Machine, workers: int
) -> None:
    """The first pass."""
    folder = work / "clean"
    folder.mkdir(parents=True, exist_ok=True)
    weights = _load_or_train_classifier(section, work, seed, machine)
    evaluation = _load_or_build_index(section, work, machine)
    missing = [task for task in todo if not (folder / f"{task.name}.json").exists()]
    sizes = {task.index: task.local_bytes for task in todo}
    tasks = [
        work_units.unit_task(
            task, section, folder, seed, machine,
            weights=weights and str(weights),
            evaluation=None if evaluation is None or task.is_dedup_reference else str(evaluation),
        )
        for task in missing
    ]  # fmt: skip
    total = sum(sizes.values())
    with machine.progress.task("read and clean", total=total or None, unit="bytes") as progress:
        progress.resume_at(total - sum(sizes[task.index] for task in missing))
        documents = 0
        for answer in executor.map_units(process_unit.process_unit, tasks, workers):
            documents += answer["documents"]
            progress.set_status(f"{documents} documents")
            progress.advance(sizes[answer["unit"]])


@dataclass
class UnitResults:
    """What the first pass says of all units, put together one by one: thousands of them would fill the memory.

    Attributes:
        counts: documents that passed, by unit.
        funnels: by source.
        inputs: the files that were read, by source.
        hits: evaluation items that were found.
    """

    counts: dict[int, int]
    stats: dict[str, FilterStats]
    inputs: dict[str, corpus_summary.InputSummary]
    contaminated: list[dict[str, str]]

    @classmethod
    def load(cls, section: DataConfig, todo: list[WorkUnit], clean: Path) -> "UnitResults":
        """Raises UserError for a source without a document."""
        names = [source.name for source in section.sources]
        found = cls(
            {},
            {name: FilterStats() for name in names},
            {name: corpus_summary.InputSummary() for name in names},
            [],
        )
        for task in todo:
            answer = _read_json(clean / f"{task.name}.json")
            funnel = FilterStats(**answer["stats"])
            found.counts[task.index] = funnel.kept[0]
            if not task.is_dedup_reference:
                found.stats[task.source.name].merge(funnel)
                found.inputs[task.source.name].add(answer["inputs"])
                found.contaminated += answer["contaminated"]
        for name, funnel in found.stats.items():
            if funnel.kept[0] == 0:
                reasons = ", ".join(
                    f"{counts[0]} {reason}" for reason, counts in sorted(funnel.dropped.items())
                )
                raise UserError(
                    f"source {name} yields no text: {reasons or 'no document in its files'}",
                    hint="check its kind and path, or loosen the rules in [data]",
                )
        return found


def deduplicate(section: DataConfig, counts: dict[int, int], work: Path, machine: Machine) -> DedupDecisions:
    """The second pass."""
    path = work / "duplicates.npz"
    if path.exists():
        with numpy.load(path, allow_pickle=False) as stored:
            return DedupDecisions(stored["codes"], stored["roots"])
    judged = duplicates.find_duplicates(section, work / "clean", counts, machine)
    partial = work / ".duplicates.part"
    with partial.open("wb") as file:
        numpy.savez(file, codes=judged.codes, roots=judged.roots)
    partial.replace(path)
    return judged


def partition(
    section: DataConfig, todo: list[WorkUnit], counts: dict[int, int], judged: DedupDecisions,
    weights: dict[str, tuple[float, int]], shards: dict[str, int], seed: int, work: Path, workers: int,
) -> None:  # fmt: skip
    """The third pass."""
    folder = work / "partitioned"
    folder.mkdir(exist_ok=True)
    keys = corpus_summary.read_column(todo, work / "clean", "key", numpy.uint64)
    tasks = []
    for task, start, stop in _document_ranges(todo, counts):
        if task.is_dedup_reference or (folder / f"{task.name}.json").exists():
            continue
        numpy.save(folder / f"{task.name}.codes.npy", judged.codes[start:stop])
        numpy.save(folder / f"{task.name}.splits.npy", keys[judged.roots[start:stop]])
        tasks.append({
            "unit": task.index, "clean": str(work / "clean"), "folder": str(folder), "shards": shards, "seed": seed,
            "epochs": weights[task.source.name][0], "validation_fraction": section.validation_fraction,
            "ngram_words": section.substring_dedup.min_words,
        })  # fmt: skip
    for _ in executor.map_units(shuffle.partition_unit, tasks, workers):
        pass


def merge(
    todo: list[WorkUnit], shards: dict[str, int], out: Path, workers: int
) -> tuple[dict[str, dict[str, Any]], str]:
    """The fourth pass. Returns documents and bytes by split and source, and the fingerprint of all files."""
    folder = out / "work" / "partitioned"
    targets = {
        shuffle.partition_id(split, number): out / split / f"{number:05d}.parquet"
        for split, count in shards.items()
        for number in range(count)
    }
    for folder_of_split in (out / "train", out / "validation"):
        folder_of_split.mkdir(exist_ok=True)
        for left_over in folder_of_split.glob(".*.part"):
            left_over.unlink()
    own = [task.index for task in _source_units(todo)]
    tasks = [
        {"folder": str(folder), "target": str(target), "partition": place, "units": own}
        for place, target in targets.items()
        if not (target.exists() and (folder / f"{place}.written.json").exists())
    ]
    for _ in executor.map_units(shuffle.merge_partition, tasks, workers):
        pass
    counted: dict[str, dict[str, Any]] = {"train": {}, "validation": {}}
    hashes = {}
    for place, target in targets.items():
        written = _read_json(folder / f"{place}.written.json")
        hashes[written["name"]] = written["sha256"]
        split = counted[target.parent.name]
        for source, (documents, size) in written["sources"].items():
            counts = split.setdefault(source, {"documents": 0, "bytes": 0})
            counts["documents"] += documents
            counts["bytes"] += size
    return counted, fingerprint(hashes)


def _num_shards(section: DataConfig, weights: dict[str, tuple[float, int]]) -> dict[str, int]:
    """How many files each split has: each is put in order in memory, so none may be much larger than the rest."""
    total = sum(size for _, size in weights.values())
    sizes = {
        "train": sum(weight * size for weight, size in weights.values()),
        "validation": section.validation_fraction * total,
    }
    return {split: max(1, round(size / (1e6 * section.shard_megabytes))) for split, size in sizes.items()}


def _source_epochs(
    section: DataConfig, todo: list[WorkUnit], counts: dict[int, int], judged: DedupDecisions, work: Path
) -> dict[str, tuple[float, int]]:
    """For each source its epochs, and its bytes after deduplication."""
    sizes = corpus_summary.read_column(todo, work / "clean", "bytes", numpy.int64)
    totals = {source.name: 0 for source in section.sources}
    for task, start, stop in _document_ranges(todo, counts):
        if not task.is_dedup_reference:
            totals[task.source.name] += int(sizes[start:stop][judged.codes[start:stop] == KEEP].sum())
    return {
        source.name: (
            source.epochs
            if source.target_tokens is None
            else 4 * source.target_tokens / max(totals[source.name], 1),
            totals[source.name],
        )
        for source in section.sources
    }


def _document_ranges(todo: list[WorkUnit], counts: dict[int, int]) -> list[tuple[WorkUnit, int, int]]:
    """Each unit with the numbers of its first document and of the one behind its last."""
    ends = list(accumulate(counts[task.index] for task in todo))
    return list(zip(todo, [0, *ends], ends, strict=False))


def _load_or_train_classifier(section: DataConfig, work: Path, seed: int, machine: Machine) -> Path | None:
    if section.classifier is None:
        return None
    path = work / "classifier.npy"
    if not path.exists():
        limit = section.classifier.max_examples_per_class
        good, bad = (
            _classifier_texts(section, places, limit, machine)
            for places in (section.classifier.positive, section.classifier.negative)
        )
        partial = work / ".classifier.part"
        with partial.open("wb") as file:
            numpy.save(file, classifier.train_classifier(good, bad, seed))
        partial.replace(path)
    return path


def _load_or_build_index(section: DataConfig, work: Path, machine: Machine) -> Path | None:
    if not section.decontaminate.evaluation_sets:
        return None
    path = work / "evaluation.npz"
    if not path.exists():
        items = (
            (f"{place.name}/{found.id}", found.text)
            for place in section.decontaminate.evaluation_sets
            for found in _read_all(section, place, machine)
        )
        partial = work / ".evaluation.part"
        EvaluationIndex.build(items, section.decontaminate.rule).save(partial)
        partial.replace(path)
    return path


def _classifier_texts(
    section: DataConfig, places: tuple[FilesConfig, ...], limit: int, machine: Machine
) -> list[str]:
    found = [document.text for place in places for document in _read_all(section, place, machine)]
    if not found:
        raise UserError(
            f"{places[0].name}: no example in it", hint="data.classifier learns from good and bad texts"
        )
    return found[:limit]


def _read_all(section: DataConfig, place: FilesConfig, machine: Machine) -> list[Document]:
    options = ReaderOptions(text_column=place.text_column, html_extractor=section.html_extractor)
    found = []
    for file in resolve_files(place, machine):
        found += [
            read
            for read in process_unit.read_documents(place.kind, file, options)
            if isinstance(read, Document)
        ]
    return found


def _source_units(todo: list[WorkUnit]) -> list[WorkUnit]:
    return [task for task in todo if not task.is_dedup_reference]


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
