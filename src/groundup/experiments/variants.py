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


@dataclass(frozen=True)
class Outcome:
    """What became of one variant: its run folder, its plan's facts, and its scores, or why it failed."""

    name: str
    run: Path
    plan: Mapping[str, Any]
    final_loss: float | None = None
    bits_per_byte: float | None = None
    tokens_per_second: float | None = None
    seconds: float | None = None
    error: str | None = None


def build_all(
    recipes: Mapping[str, Recipe],
    folder: Path,
    machine: Machine,
    *,
    until: str = "base",
    borrow_from: Iterable[Path] = (),
    tell: Callable[[str], None] = lambda line: None,
) -> list[Outcome]:
    """Build each recipe in `folder`/name as far as `until`; finished ones stay, an interrupted one continues.

    A variant that fails with a UserError, such as a loss that is not finite, is an outcome and not the end.
    """
    outcomes, runs = [], list(borrow_from)
    for position, (name, recipe) in enumerate(recipes.items(), 1):
        run = folder / name
        tell(f"{position}/{len(recipes)} {name}")
        error = None
        try:
            borrow(pipeline.jobs(derive(recipe).recipe, run, machine, until), runs)
            for _ in pipeline.run(recipe, run, machine, until_stage=until, replace_stale=True):
                pass
        except UserError as failure:
            error = failure.message
            tell(f"failed: {error}")
        runs.append(run)
        outcomes.append(_outcome(name, run, recipe, error))
    return outcomes


def borrow(todo: list[pipeline.Job], runs: Iterable[Path]) -> None:
    """Give a run the finished stages that another run has made from the same recipe, as hard links: files of a finished
    stage are never written again, so that two names may share them."""
    for job in todo:
        if job.state() == "complete":
            continue
        for run in runs:
            manifest = Manifest.read(run / job.path.name)
            if manifest is not None and manifest.fingerprint == job.fingerprint:
                work = job.path.with_name(job.path.name + ".linked")
                shutil.rmtree(work, ignore_errors=True)
                shutil.copytree(run / job.path.name, work, copy_function=_link)
                shutil.rmtree(job.path, ignore_errors=True)
                work.rename(job.path)
                break


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)


def _outcome(name: str, run: Path, recipe: Recipe, error: str | None) -> Outcome:
    facts = derive(recipe).facts()
    base = Manifest.read(run / "04-base")
    if error is not None or base is None:
        return Outcome(name, run, facts, error=error or "not trained")
    validation = base.metrics["validation"]
    return Outcome(
        name,
        run,
        facts,
        final_loss=base.metrics["final_loss"],
        bits_per_byte=validation[-1]["bits_per_byte"] if validation else None,
        tokens_per_second=base.metrics["speed"].get("tokens_per_second"),
        seconds=base.provenance.get("seconds"),
    )
