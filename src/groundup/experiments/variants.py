"""Build many recipes one after the other; a stage that several of them have in common is built once."""

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundup import pipeline
from groundup.artifacts.errors import PeerLost, UserError
from groundup.artifacts.machine import Machine
from groundup.artifacts.manifest import Manifest
from groundup.artifacts.run_record import check_recorded, manifest_name, update_record
from groundup.plan import Plan
from groundup.recipe import Recipe
from groundup.stages import STAGE_FOLDERS


@dataclass(frozen=True)
class VariantResult:
    """The result of one variant: run folder, plan summary, scores of its base model or error message."""

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
    """Build each recipe in `folder`/name up to the stage `until`; complete stages are kept.

    A variant that fails, for example with a loss that is not finite or with a rank that keeps dying, does not stop the
    others.

    Args:
        recipes: recipes by variant name.
        reuse_from: run folders whose complete stages are reused if their fingerprint matches.
        log: called with a line for each variant.
    """
    results, run_folders = [], list(reuse_from)
    for index, (name, recipe) in enumerate(recipes.items(), 1):
        run_folder = folder / name
        log(f"{index}/{len(recipes)} {name}")
        error = None
        try:
            for last in ("tokens", until):  # the knobs of later stages may depend on the number of tokens
                planned = pipeline.plan_run(recipe, run_folder, machine).recipe
                reuse_stages(pipeline.resolve_stage_runs(planned, run_folder, machine, last), run_folders)
            for _ in pipeline.run(recipe, run_folder, machine, until_stage=until, replace_stale=True):
                pass
        except (UserError, PeerLost) as failure:
            error = failure.message if isinstance(failure, UserError) else str(failure)
            log(f"failed: {error}")
        run_folders.append(run_folder)
        results.append(_variant_result(name, run_folder, pipeline.plan_run(recipe, run_folder, machine), error))
    return results


def reuse_stages(stage_runs: list[pipeline.StageRun], run_folders: Iterable[Path]) -> None:
    """Hard-link complete stages with the same fingerprint from other runs; files of a complete stage never change."""
    for stage_run in stage_runs:
        if stage_run.state() == "complete":
            continue
        for source in (run_folder / stage_run.path.name for run_folder in run_folders):
            manifest = Manifest.read(source)
            if manifest is not None and manifest.fingerprint == stage_run.fingerprint:
                check_recorded(source.parent, [manifest_name(source)])
                linked = stage_run.path.with_name(stage_run.path.name + ".linked")
                shutil.rmtree(linked, ignore_errors=True)
                shutil.copytree(source, linked, copy_function=_hard_link)
                update_record(stage_run.path.parent, remove=[manifest_name(stage_run.path)])
                shutil.rmtree(stage_run.path, ignore_errors=True)
                linked.rename(stage_run.path)
                break


def _hard_link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # the file system has no hard links
        shutil.copy2(source, target)


def _variant_result(name: str, run_folder: Path, run_plan: Plan, error: str | None) -> VariantResult:
    plan = run_plan.summary()
    base = Manifest.read(run_folder / STAGE_FOLDERS["base"])
    if error is not None or base is None:
        return VariantResult(name, run_folder, plan, error=error or "not trained")
    validation = base.metrics.get("validation")
    return VariantResult(
        name,
        run_folder,
        plan,
        final_loss=base.metrics.get("final_loss"),
        bits_per_byte=validation[-1]["bits_per_byte"] if validation else None,
        tokens_per_second=base.metrics.get("speed", {}).get("tokens_per_second"),
        seconds=base.provenance.get("seconds"),
    )
