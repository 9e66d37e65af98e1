"""01-data: from sources to train/ and validation/, every drop counted.

Four passes, each unit of each a file that is whole or absent: read and clean; find duplicates; route; gather. A killed
run continues with the units that are missing.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.data import shuffle, unit
from groundup.data.dedup.exact import exact_duplicates
from groundup.data.dedup.near import near_duplicates
from groundup.data.engine import map_units
from groundup.data.funnel import Funnel
from groundup.data.place import resolve
from groundup.data.rows import UNIT_BITS
from groundup.data.seen import hashes
from groundup.recipe.data import DataSection


def run(recipe: Any, inputs: dict[str, Path], out: Path, machine: Machine) -> dict[str, Any]:
    """Write train/*.parquet, validation/*.parquet and dropped/*.jsonl; return the funnel. Reads recipe.data, recipe.seed."""
    section: DataSection = recipe.data
    work = out / "work"
    files = {source.name: resolve(source, machine) for source in section.sources}
    tasks = _units(section, files, work / "clean")
    _read(tasks, machine)
    funnels = _funnels(section, tasks)
    dropped = _duplicates(section, tasks, work, recipe.seed, machine)
    shards = max(1, round(sum(
        funnels[source.name].kept[1] * source.weight for source in section.sources
    ) / (1e6 * section.shard_megabytes)))  # fmt: skip
    written = _write(section, tasks, dropped, shards, recipe.seed, out, machine)
    for task in tasks:
        answer = json.loads((work / "routed" / f"{task['number']:05d}.json").read_text())
        funnels[task["source"]].merge(Funnel(**answer["funnel"]))
    _samples(funnels, out / "dropped")
    metrics = _metrics(section, funnels, files, written, machine)
    shutil.rmtree(work)
    return metrics


def _units(section: DataSection, files: dict[str, list[Any]], folder: Path) -> list[dict[str, Any]]:
    """The work of the first pass: small files together up to 64 MB, so that no unit is long and none is tiny."""
    folder.mkdir(parents=True, exist_ok=True)
    common = {"section": section.model_dump(mode="json"), "folder": str(folder)}
    tasks: list[dict[str, Any]] = []
    for source in section.sources:
        group: list[Any] = []
        size = 0
        for file in files[source.name]:
            amount = file.path.stat().st_size
            if group and size + amount > 64 << 20:
                tasks.append({**common, "number": len(tasks), "source": source.name, "files": group})
                group, size = [], 0
            group.append([file.name, str(file.path), file.members, file.is_package])
            size += amount
        tasks.append({**common, "number": len(tasks), "source": source.name, "files": group})
    return tasks


def _read(tasks: list[dict[str, Any]], machine: Machine) -> None:
    missing = [task for task in tasks if not (Path(task["folder"]) / f"{task['number']:05d}.json").exists()]
    total = sum(Path(file[1]).stat().st_size for task in tasks for file in task["files"])
    with machine.progress.task("read and clean", total=total, unit="bytes") as progress:
        progress.start_at(
            total - sum(Path(file[1]).stat().st_size for task in missing for file in task["files"])
        )
        for answer in map_units(unit.work, missing, machine.threads):
            progress.advance(sum(Path(file[1]).stat().st_size for file in tasks[answer["number"]]["files"]))


def _funnels(section: DataSection, tasks: list[dict[str, Any]]) -> dict[str, Funnel]:
    funnels = {source.name: Funnel() for source in section.sources}
    for task in tasks:
        answer = json.loads((Path(task["folder"]) / f"{task['number']:05d}.json").read_text())
        funnels[task["source"]].merge(Funnel(**answer))
    for name, funnel in funnels.items():
        if funnel.kept[0] == 0:
            reasons = (
                ", ".join(f"{counts[0]} {reason}" for reason, counts in funnel.dropped.items())
                or "no document in it"
            )
            raise UserError(
                f"source {name} yields no text: {reasons}",
                hint="check its kind and path, or loosen the rules in [data]",
            )
    return funnels


def _duplicates(
    section: DataSection, tasks: list[dict[str, Any]], work: Path, seed: int, machine: Machine
) -> dict[int, str]:
    """Ordinal -> reason, for every document that repeats another."""
    files = [Path(task["folder"]) / f"{task['number']:05d}.parquet" for task in tasks]
    dropped: dict[int, str] = {}
    if section.minhash.enabled:
        near = near_duplicates(files, work / "signatures", section.minhash, seed, machine.progress)
        dropped |= dict.fromkeys(near, "near_duplicate")
    if section.exact.enabled:
        dropped |= dict.fromkeys(exact_duplicates(work / "clean"), "exact_duplicate")
    return dropped


def _write(
    section: DataSection,
    tasks: list[dict[str, Any]],
    dropped: dict[int, str],
    shards: int,
    seed: int,
    out: Path,
    machine: Machine,
) -> dict[str, dict[str, Any]]:
    """Route and gather. Returns documents and bytes by split and source."""
    folder = out / "work" / "routed"
    folder.mkdir(exist_ok=True)
    weights = {source.name: source.weight for source in section.sources}
    by_unit: dict[int, dict[int, str]] = {}
    for ordinal, reason in dropped.items():
        by_unit.setdefault(ordinal >> UNIT_BITS, {})[ordinal] = reason
    routes = [
        {
            "clean": task["folder"], "folder": str(folder), "number": task["number"], "dropped": by_unit.get(task["number"], {}),
            "validation_fraction": section.validation_fraction, "weight": weights[task["source"]], "shards": shards, "seed": seed,
        }
        for task in tasks
        if not (folder / f"{task['number']:05d}.json").exists()
    ]  # fmt: skip
    for _ in map_units(shuffle.route, routes, machine.threads):
        pass
    targets = {place: out / "train" / f"{place:05d}.parquet" for place in range(shards)}
    targets[shuffle.VALIDATION] = out / "validation" / "00000.parquet"
    for name in ("train", "validation"):
        (out / name).mkdir(exist_ok=True)
    gathers = [
        {"folder": str(folder), "target": str(target), "place": place, "units": len(tasks)}
        for place, target in targets.items()
    ]
    written: dict[str, dict[str, Any]] = {"train": {}, "validation": {}}
    for answer in map_units(shuffle.gather, gathers, machine.threads):
        split = written["validation" if answer["place"] == shuffle.VALIDATION else "train"]
        for source, (documents, size) in answer["counts"].items():
            counts = split.setdefault(source, {"documents": 0, "bytes": 0})
            counts["documents"] += documents
            counts["bytes"] += size
    return written


def _samples(funnels: dict[str, Funnel], folder: Path) -> None:
    """dropped/SOURCE.jsonl: a few documents for each reason, for people to look at."""
    folder.mkdir(exist_ok=True)
    for name, funnel in funnels.items():
        lines = [
            json.dumps({"reason": reason, **sample}, ensure_ascii=False)
            for reason, samples in sorted(funnel.samples.items())
            for sample in samples
        ]
        (folder / f"{name}.jsonl").write_bytes(
            "".join(line + "\n" for line in lines).encode("utf-8", "replace")
        )


def _metrics(
    section: DataSection,
    funnels: dict[str, Funnel],
    files: dict[str, list[Any]],
    written: dict[str, Any],
    machine: Machine,
) -> dict[str, Any]:
    total = Funnel()
    sources = {}
    for source in section.sources:
        funnel = funnels[source.name]
        total.merge(funnel)
        sums = hashes([file.path for file in files[source.name]], machine)
        sources[source.name] = {
            "kind": source.kind,
            "weight": source.weight,
            "inputs": [
                {"name": file.name, "bytes": file.path.stat().st_size, "sha256": sha256}
                for file, sha256 in list(zip(files[source.name], sums, strict=True))[:100]
            ],
            "input_files": len(sums),
            **funnel.table(),
            "train": written["train"].get(source.name, {"documents": 0, "bytes": 0}),
            "validation": written["validation"].get(source.name, {"documents": 0, "bytes": 0}),
        }
    sums = {
        split: {key: sum(counts[key] for counts in written[split].values()) for key in ("documents", "bytes")}
        for split in ("train", "validation")
    }
    return {"sources": sources, "total": {**total.table(), **sums}}
