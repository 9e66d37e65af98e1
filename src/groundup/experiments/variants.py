"""Many recipes built one after the other, where each stage that two of them share is made once."""

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundup import pipeline
from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.artifacts.manifest import Manifest
from groundup.plan import derive
from groundup.recipe import Recipe
from groundup.stages import STAGE_FOLDERS


@dataclass(frozen=True)
class VariantResult:
    """What became of one variant: its run folder, its plan's facts, and its scores, or why it failed."""

    name: str
    run_folder: Path
    plan: Mapping[str, Any]
    final_loss: float | None = None
    bits_per_byte: float | None = None
    tokens_per_second: float | None = None
    seconds: float | None = None
    error: str | None = None


def build_variants(
    recipes: Mapping[str, Recipe],
    folder: Path,
    machine: Machine,
    *,
    until: str = "base",
    reuse_from: Iterable[Path] = (),
    log: Callable[[str], None] = lambda line: None,
) -> list[VariantResult]:
    """Build each recipe in `folder`/name as far as `until`; finished ones stay, an interrupted one continues.

    A variant that fails with a UserError, such as a loss that is not finite, is an outcome and not the end.
    """
    outcomes, runs = [], list(reuse_from)
    for position, (name, recipe) in enumerate(recipes.items(), 1):
        run = folder / name
        log(f"{position}/{len(recipes)} {name}")
        error = None
        try:
            reuse_stages(pipeline.resolve_stage_runs(derive(recipe).recipe, run, machine, until), runs)
            for _ in pipeline.run(recipe, run, machine, until_stage=until, replace_stale=True):
                pass
        except UserError as failure:
            error = failure.message
            log(f"failed: {error}")
        runs.append(run)
        outcomes.append(_variant_result(name, run, recipe, error))
    return outcomes


def reuse_stages(stage_runs: list[pipeline.StageRun], run_folders: Iterable[Path]) -> None:
    """Give a run the finished stages that another run has made from the same recipe, as hard links: files of a finished
    stage are never written again, so that two names may share them."""
    for job in stage_runs:
        if job.state() == "complete":
            continue
        for run in run_folders:
            manifest = Manifest.read(run / job.path.name)
            if manifest is not None and manifest.fingerprint == job.fingerprint:
                work = job.path.with_name(job.path.name + ".linked")
                shutil.rmtree(work, ignore_errors=True)
                shutil.copytree(run / job.path.name, work, copy_function=_hard_link)
                shutil.rmtree(job.path, ignore_errors=True)
                work.rename(job.path)
                break


def _hard_link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)


def _variant_result(name: str, run_folder: Path, recipe: Recipe, error: str | None) -> VariantResult:
    facts = derive(recipe).summary()
    base = Manifest.read(run_folder / STAGE_FOLDERS["base"])
    if error is not None or base is None:
        return VariantResult(name, run_folder, facts, error=error or "not trained")
    validation = base.metrics["validation"]
    return VariantResult(
        name,
        run_folder,
        facts,
        final_loss=base.metrics["final_loss"],
        bits_per_byte=validation[-1]["bits_per_byte"] if validation else None,
        tokens_per_second=base.metrics["speed"].get("tokens_per_second"),
        seconds=base.provenance.get("seconds"),
    )
