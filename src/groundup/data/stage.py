"""Data stage: from the recipe's sources to the parquet files of train/ and validation/.

Four passes: read and clean each work unit, find duplicates, partition by output file (split, mix), merge (shuffle).
Each file of a pass is complete or missing, so an interrupted run continues with the missing ones.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy

from groundup.artifacts.directory import commit_file, discard_when_complete
from groundup.artifacts.errors import UserError
from groundup.artifacts.fingerprint import fingerprint
from groundup.artifacts.machine import Machine
from groundup.data import corpus_summary, executor, shuffle, unit_progress, work_units
from groundup.data.clean import classifier
from groundup.data.decontaminate import MIN_ITEM_WORDS, EvaluationIndex
from groundup.data.dedup import duplicates
from groundup.data.dedup.duplicates import KEEP, DedupDecisions
from groundup.data.dedup_estimate import BYTES_PER_TOKEN
from groundup.data.document_reader import read_spec
from groundup.data.filter_stats import FilterStats
from groundup.data.process_unit import process_unit
from groundup.data.readers.reader_options import ReaderOptions
from groundup.data.validation_split import SourceSplit, plan_source_splits
from groundup.data.work_units import WorkUnit
from groundup.recipe import RecipeView
from groundup.recipe.data_config import DataConfig, FilesConfig

SHUFFLE_BYTES_PER_WORKER = 100e6
"""Text that one worker partitions and merges in the time that starting two workers takes."""


def run(recipe: RecipeView, inputs: dict[str, Path], out: Path, machine: Machine) -> dict[str, Any]:
    """Write train/*.parquet, validation/*.parquet, dropped/*.jsonl, changed/*.jsonl, clusters.jsonl, contaminated.jsonl.

    Reads recipe.data and recipe.seed. Returns metrics with the filter statistics; "fingerprint" identifies the corpus
    (same texts in the same order). Raises UserError for a source without text.
    """
    config = recipe.data
    workers = executor.start_executor(config.executor, machine.threads)
    work = out / "work"
    units = work_units.plan_units(config, machine, recipe.seed)
    read_and_clean(config, units, work, recipe.seed, machine, workers)
    results = UnitResults.load(config, units, work / "clean")
    decisions = deduplicate(config, results.counts, work, machine)
    documents, sizes = _remaining_text(config, units, results.counts, decisions, work)
    epochs = _source_epochs(config, sizes)
    splits = plan_source_splits(config.validation_fraction, documents, sizes)
    if config.minhash_dedup.action == "keep_same_split":  # near duplicates of a span would be trained on
        splits = {name: replace(split, span_bytes=None) for name, split in splits.items()}
    shards = _num_shards(config, epochs, sizes, splits)
    workers = executor.useful_workers(workers, sum(sizes.values()), SHUFFLE_BYTES_PER_WORKER)
    partition(config, units, results.counts, decisions, epochs, splits, shards, recipe.seed, work, workers)
    written, corpus = merge(units, shards, out, workers)
    _check_validation_text(config, written)
    for unit in _source_units(units):
        stats = _read_json(work / "partitioned" / f"{unit.name}.json")["stats"]
        results.stats[unit.source.name].merge(FilterStats(**stats))
    for name, stats in results.stats.items():
        for line in stats.describe(name):
            machine.progress.log(line)
    corpus_summary.write_samples(results.stats, out)
    corpus_summary.write_clusters(decisions, units, results.counts, work / "clean", out / "clusters.jsonl")
    corpus_summary.write_jsonl(results.contaminated, out / "contaminated.jsonl")
    metrics = corpus_summary.corpus_metrics(config, results.stats, results.inputs, epochs, splits, written)
    discard_when_complete(out, [work])
    return metrics | {
        "duplicate_clusters": duplicates.cluster_stats(decisions),
        "contaminated": len(results.contaminated),
        "fingerprint": corpus,
    }


def read_and_clean(
    config: DataConfig, units: list[WorkUnit], work: Path, seed: int, machine: Machine, workers: int
) -> None:
    """First pass."""
    folder = work / "clean"
    folder.mkdir(parents=True, exist_ok=True)
    weights = _load_or_train_classifier(config, work, seed, machine)
    evaluation = _load_or_build_index(config, work, machine)
    missing = [unit for unit in units if not (folder / f"{unit.name}.json").exists()]
    sizes = {unit.index: unit.local_bytes for unit in units}
    tasks = [
        work_units.unit_task(
            unit, config, folder, seed, machine,
            weights=weights and str(weights),
            evaluation=None if evaluation is None or unit.is_dedup_reference else str(evaluation),
        )
        for unit in missing
    ]  # fmt: skip
    total = sum(sizes.values())
    with machine.progress.task("read and clean", total=total or None, unit="bytes") as progress:
        progress.resume_at(total - sum(sizes[unit.index] for unit in missing))
        documents = 0
        completed = progress.completed
        for leftover in folder.glob(f"*{unit_progress.SUFFIX}"):
            leftover.unlink()
        with unit_progress.polled(folder, lambda reading: progress.move_to(min(completed + reading, total))):
            for result in executor.map_units(process_unit, tasks, workers):
                documents += result["documents"]
                completed += sizes[result["unit"]]
                progress.set_status(f"{documents} documents")
        progress.move_to(completed)


@dataclass
class UnitResults:
    """Results of the first pass, merged unit by unit.

    Attributes:
        counts: kept documents by unit.
        stats: filter statistics by source.
        inputs: input files by source.
        contaminated: evaluation items found.
    """

    counts: dict[int, int]
    stats: dict[str, FilterStats]
    inputs: dict[str, corpus_summary.InputSummary]
    contaminated: list[dict[str, str]]

    @classmethod
    def load(cls, config: DataConfig, units: list[WorkUnit], clean: Path) -> "UnitResults":
        """Raises UserError for a source, or an earlier corpus, without a document."""
        names = [source.name for source in config.sources]
        inputs = {name: corpus_summary.InputSummary() for name in names}
        results = cls({}, {name: FilterStats() for name in names}, inputs, [])
        earlier: dict[str, FilterStats] = {}
        for unit in units:
            result = _read_json(clean / f"{unit.name}.json")
            stats = FilterStats(**result["stats"])
            results.counts[unit.index] = stats.kept[0]
            if not unit.is_dedup_reference:
                results.stats[unit.source.name].merge(stats)
                inputs[unit.source.name].add(result["inputs"])
                results.contaminated += result["contaminated"]
            else:
                earlier.setdefault(unit.source.name, FilterStats()).merge(stats)
        for name, stats in earlier.items():
            if stats.kept[0] == 0:
                raise UserError(
                    f"data.dedup_against: {name} has no text to compare with: {stats.describe_loss()}",
                    hint="set its text_column to the column of the texts, and check its path and kind",
                )
        for name, stats in results.stats.items():
            if stats.kept[0] == 0:
                out = clean.parent.parent
                corpus_summary.write_samples(results.stats, out)
                raise UserError(
                    f"data.sources: source {name} has no text left: {stats.describe_loss()}; {inputs[name].describe()}",
                    hint="relax the knob named above, or set clean = false for the source; check its kind and path; what was "
                    f"dropped: groundup inspect {out} --source {name}",
                )
        return results


def deduplicate(config: DataConfig, counts: dict[int, int], work: Path, machine: Machine) -> DedupDecisions:
    """Second pass."""
    path = work / "duplicates.npz"
    if path.exists():
        with numpy.load(path, allow_pickle=False) as stored:
            return DedupDecisions(stored["codes"], stored["roots"])
    decisions = duplicates.deduplicate_units(config, work / "clean", counts, machine)
    partial = work / ".duplicates.part"
    with partial.open("wb") as file:
        numpy.savez(file, codes=decisions.codes, roots=decisions.roots)
    commit_file(partial, path)
    return decisions


def partition(
    config: DataConfig, units: list[WorkUnit], counts: dict[int, int], decisions: DedupDecisions,
    epochs: dict[str, float], splits: dict[str, SourceSplit], shards: dict[str, int], seed: int, work: Path,
    workers: int,
) -> None:  # fmt: skip
    """Third pass."""
    folder = work / "partitioned"
    folder.mkdir(exist_ok=True)
    keys = corpus_summary.read_column(units, work / "clean", "key", numpy.uint64)
    sizes = corpus_summary.read_column(units, work / "clean", "bytes", numpy.int64)
    offsets = dict.fromkeys(splits, 0)
    tasks = []
    for unit, start, stop in _document_ranges(units, counts):
        if unit.is_dedup_reference:
            continue
        name = unit.source.name
        numpy.save(folder / f"{unit.name}.codes.npy", decisions.codes[start:stop])
        numpy.save(folder / f"{unit.name}.splits.npy", keys[decisions.roots[start:stop]])
        tasks.append({
            "unit": unit.index, "clean": str(work / "clean"), "folder": str(folder), "shards": shards, "seed": seed,
            "epochs": epochs[name], "split": splits[name].as_json(), "offset": offsets[name],
            "ngram_words": config.substring_dedup.min_words,
        })  # fmt: skip
        offsets[name] += int(sizes[start:stop][decisions.codes[start:stop] == KEEP].sum())
    index = _index_validation_spans(tasks, folder, workers)
    tasks = [task | {"validation_index": index} for task in tasks if not (folder / f"{task['unit']:05d}.json").exists()]
    for _ in executor.map_units(shuffle.partition_unit, tasks, workers):
        pass


def _index_validation_spans(tasks: list[dict[str, Any]], folder: Path, workers: int) -> str | None:
    """File with the 8-grams of all validation spans; None if whole documents are held out."""
    with_spans = [task for task in tasks if task["split"]["span_bytes"] is not None and task["split"]["fraction"] > 0]
    if not with_spans:
        return None
    path = folder / "validation.npz"
    if not path.exists():
        found = executor.map_units(shuffle.validation_paragraphs, with_spans, workers)
        items = (item for result in found for item in result["paragraphs"])
        partial = folder / ".validation.part"
        EvaluationIndex.build(items, shuffle.REPEAT_RULE).save(partial)
        partial.replace(path)
    return str(path)


def _check_validation_text(config: DataConfig, written: dict[str, dict[str, Any]]) -> None:
    train, validation = (sum(counts["bytes"] for counts in written[split].values()) for split in written)
    for name, size in (("training", train), ("validation", validation)):
        if not size and (name == "training" or config.validation_fraction):
            raise UserError(
                f"data: {train + validation:,} bytes of text, of which none is left for {name}",
                hint="add text, or relax the filters in [data]",
            )


def merge(
    units: list[WorkUnit], shards: dict[str, int], out: Path, workers: int
) -> tuple[dict[str, dict[str, Any]], str]:
    """Fourth pass. Returns documents and bytes by split and source, and the fingerprint of all files."""
    folder = out / "work" / "partitioned"
    targets = {
        shuffle.partition_id(split, shard): out / split / f"{shard:05d}.parquet"
        for split, count in shards.items()
        for shard in range(count)
    }
    for split_folder in (out / "train", out / "validation"):
        split_folder.mkdir(exist_ok=True)
        for unfinished in split_folder.glob(".*.part"):
            unfinished.unlink()
    indices = [unit.index for unit in _source_units(units)]
    tasks = [
        {"folder": str(folder), "target": str(target), "partition": partition, "units": indices}
        for partition, target in targets.items()
        if not (target.exists() and (folder / f"{partition}.written.json").exists())
    ]
    for _ in executor.map_units(shuffle.merge_partition, tasks, workers):
        pass
    totals: dict[str, dict[str, Any]] = {"train": {}, "validation": {}}
    hashes = {}
    for partition, target in targets.items():
        written = _read_json(folder / f"{partition}.written.json")
        hashes[written["name"]] = written["sha256"]
        split = totals[target.parent.name]
        for source, (documents, size) in written["sources"].items():
            counts = split.setdefault(source, {"documents": 0, "bytes": 0})
            counts["documents"] += documents
            counts["bytes"] += size
    return totals, fingerprint(hashes)


def _num_shards(
    config: DataConfig, epochs: dict[str, float], sizes: dict[str, int], splits: dict[str, SourceSplit]
) -> dict[str, int]:
    """Output files per split. A file is sorted in memory, so its size is bounded."""
    bytes_by_split = {
        "train": sum(epochs[name] * size for name, size in sizes.items()),
        "validation": sum(splits[name].fraction * size for name, size in sizes.items()),
    }
    shard_bytes = 1e6 * config.shard_megabytes
    return {split: max(1, round(size / shard_bytes)) for split, size in bytes_by_split.items()}


def _remaining_text(
    config: DataConfig, units: list[WorkUnit], counts: dict[int, int], decisions: DedupDecisions, work: Path
) -> tuple[dict[str, int], dict[str, int]]:
    """Documents and bytes of each source after deduplication."""
    column = corpus_summary.read_column(units, work / "clean", "bytes", numpy.int64)
    documents, sizes = ({source.name: 0 for source in config.sources} for _ in range(2))
    for unit, start, stop in _document_ranges(units, counts):
        if not unit.is_dedup_reference:
            kept = column[start:stop][decisions.codes[start:stop] == KEEP]
            documents[unit.source.name] += len(kept)
            sizes[unit.source.name] += int(kept.sum())
    return documents, sizes


def _source_epochs(config: DataConfig, sizes: dict[str, int]) -> dict[str, float]:
    return {
        source.name: source.epochs
        if source.target_tokens is None
        else BYTES_PER_TOKEN * source.target_tokens / max(sizes[source.name], 1)
        for source in config.sources
    }


def _document_ranges(units: list[WorkUnit], counts: dict[int, int]) -> list[tuple[WorkUnit, int, int]]:
    """(unit, first document number, end) of each unit."""
    ends = list(accumulate(counts[unit.index] for unit in units))
    return list(zip(units, [0, *ends], ends, strict=False))


def _load_or_train_classifier(config: DataConfig, work: Path, seed: int, machine: Machine) -> Path | None:
    if config.classifier is None:
        return None
    path = work / "classifier.npy"
    if not path.exists():
        positive, negative = (
            _classifier_texts(config, specs, machine)
            for specs in (config.classifier.positive, config.classifier.negative)
        )
        partial = work / ".classifier.part"
        with partial.open("wb") as file:
            numpy.save(file, classifier.train_classifier(positive, negative, seed))
        commit_file(partial, path)
    return path


def _classifier_texts(config: DataConfig, specs: tuple[FilesConfig, ...], machine: Machine) -> list[str]:
    assert config.classifier is not None
    stats = FilterStats()
    texts = [document.text for spec in specs for document in read_spec(spec, _options(config, spec), machine, stats)]
    if not texts:
        raise UserError(
            f"data.classifier: no document in {specs[0].name}: {stats.describe_loss()}",
            hint="data.classifier.positive and .negative need at least one example each",
        )
    return texts[: config.classifier.max_examples_per_class]


def _load_or_build_index(config: DataConfig, work: Path, machine: Machine) -> Path | None:
    if not config.decontaminate.evaluation_sets:
        return None
    path = work / "evaluation.npz"
    if not path.exists():
        read = {spec.name: FilterStats() for spec in config.decontaminate.evaluation_sets}
        index = EvaluationIndex.build(_evaluation_items(config, machine, read), config.decontaminate.rule)
        for name, stats in read.items():
            if not index.has_items_of(name):
                items = stats.kept[0]
                what = f"{items:,} texts, all of fewer than {MIN_ITEM_WORDS} words," if items else "no text"
                why = "" if items else f": {stats.describe_loss()}"
                raise UserError(
                    f"data.decontaminate.evaluation_sets: {name} has {what} to look for, expected at least one item{why}",
                    hint="set its text_column to the column of the items, and check its path and kind",
                )
        partial = work / ".evaluation.part"
        index.save(partial)
        commit_file(partial, path)
    return path


def _evaluation_items(config: DataConfig, machine: Machine, read: dict[str, FilterStats]) -> Iterator[tuple[str, str]]:
    """(SET/ITEM, text); counts the texts of each set in `read`."""
    for spec in config.decontaminate.evaluation_sets:
        for document in read_spec(spec, _options(config, spec), machine, read[spec.name]):
            yield f"{spec.name}/{document.id}", document.text


def _options(config: DataConfig, spec: FilesConfig) -> ReaderOptions:
    return ReaderOptions(spec.text_column, config.html_extractor, spec.delimiter)


def _source_units(units: list[WorkUnit]) -> list[WorkUnit]:
    return [unit for unit in units if not unit.is_dedup_reference]


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
