"""The pipeline runner: which stages of a recipe are complete, and how the others are built.

A stage reads the recipe sections that it declares and the folders of earlier stages, and writes one folder. Its
fingerprint covers exactly these, so a stage is up to date or stale on every machine alike.
"""

import importlib
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

from groundup.artifacts.differences import list_differences
from groundup.artifacts.directory import (
    finish_promotion,
    is_temporary,
    join_lock,
    lock_folder,
    open_partial,
    partial_matches,
    partial_path,
    promote,
    sync_folder,
    write_atomically,
)
from groundup.artifacts.errors import UserError
from groundup.artifacts.json_file import read_json_object
from groundup.artifacts.machine import Machine, provenance
from groundup.artifacts.manifest import Manifest, list_files
from groundup.artifacts.progress import Progress
from groundup.artifacts.rank_environment import rank, world_size
from groundup.artifacts.run_record import RECORD_FILE, check_recorded, check_stage, manifest_name, update_record
from groundup.artifacts.storage_errors import report_storage_errors
from groundup.plan import Plan
from groundup.plan.checks.stage_support import check_stages
from groundup.plan.layout.parallel_layout import configured_devices
from groundup.plan.plan_table import describe_data, format_hours
from groundup.recipe import Recipe, RecipeView, parse_recipe
from groundup.stage_runs import StageRun, call_by_reference, estimate_run_seconds, plan_run, resolve_stage_runs
from groundup.stages import STAGES

RECORDED_PACKAGES = (
    "groundup", "torch", "numpy", "daft", "tokenizers", "safetensors", "trafilatura", "fastwarc", "typst",
)  # fmt: skip
"""Packages whose versions every manifest records."""

RECIPE_FILE = "recipe.json"
PLAN_FILE = "plan.json"

CHECK_MACHINE = "groundup.train.machine_support:check_machine"

ALL_RANKS = "all-ranks"
"""Published status of a stage that every rank takes part in; any other status means that the stage is done."""


def run(
    recipe: Recipe,
    run_folder: Path,
    machine: Machine,
    *,
    from_stage: str | None = None,
    until_stage: str | None = None,
    replace_stale: bool = False,
) -> Iterator[tuple[StageRun, str]]:
    """Build the stages that are not complete; yields each stage with "done" (was complete) or "built".

    `from_stage`: rebuild this stage and all after it, complete ones too. `until_stage`: stop after this stage.
    Raises UserError, before anything is written, when a stage is stale and neither option rebuilds it.

    >>> for stage_run, state in run(recipe, Path("runs/quickstart"), Machine()):
    ...     print(stage_run.path, state)
    """
    known = [stage.name for stage in STAGES]
    for name in (from_stage, until_stage):
        if name is not None and name not in known:
            raise UserError(f"{name}: no such stage", hint=f"one of {', '.join(known)}")
    if world_size() == 1:
        yield from _run_main(recipe, run_folder, machine, from_stage, until_stage, replace_stale)
        return
    rendezvous = _rendezvous()
    with rendezvous.propagate_errors():
        plan = plan_run(recipe, run_folder, machine)
        stage_runs = resolve_stage_runs(plan.recipe, run_folder, machine, until_stage)
        local = {each.stage.name: {"sections": each.sections, "identity": each.fingerprint} for each in stage_runs}
        local = json.loads(json.dumps(local))
        rendezvous.check_same(json.dumps(local), lambda main: list_differences(json.loads(main), local)[0])
        if rank() == 0:
            yield from _run_main(recipe, run_folder, machine, from_stage, until_stage, replace_stale)
        else:
            yield from _run_worker(recipe, run_folder, machine, until_stage, len(stage_runs))


def _run_main(
    recipe: Recipe,
    run_folder: Path,
    machine: Machine,
    from_stage: str | None,
    until_stage: str | None,
    replace_stale: bool,
) -> Iterator[tuple[StageRun, str]]:
    """The run as the main rank executes it: all stages in order."""
    plan = plan_run(recipe, run_folder, machine)
    with report_storage_errors(run_folder), lock_folder(run_folder):
        _remove_temporary_files(run_folder)
        stage_runs = resolve_stage_runs(plan.recipe, run_folder, machine, until_stage)
        if not stage_runs:
            raise UserError("the recipe has no stage to run", hint="add a table such as [data], [tokenizer] or [train]")
        names = {stage_run.stage.name for stage_run in stage_runs}
        for option, name in (("--from", from_stage), ("--until", until_stage)):
            if name is not None and name not in names:
                order = [stage.name for stage in STAGES]
                if until_stage is not None and order.index(name) > order.index(until_stage):
                    raise UserError(
                        f"--from {name} comes after --until {until_stage}",
                        hint=f"name a stage up to {until_stage}, or a later --until",
                    )
                section = next(stage.section for stage in STAGES if stage.name == name)
                raise UserError(
                    f"{option} {name}: the recipe does not have this stage", hint=f"add a [{section}] table"
                )
        may_replace = replace_stale or from_stage is not None
        _check_overwrite(stage_runs[: _planned_stages(stage_runs)], may_replace)
        rebuilt = [index for index, each in enumerate(stage_runs) if each.stage.name == from_stage]
        first = rebuilt[0] if rebuilt else len(stage_runs)
        pending = [each.stage for i, each in enumerate(stage_runs) if i >= first or each.state() != "complete"]
        check_stages(plan.recipe, pending)  # before hours of work
        if any(stage.uses_device for stage in pending):
            train = plan.recipe.train if any(stage.section == "train" for stage in pending) else None
            call_by_reference(CHECK_MACHINE, machine, train)
        kept = [
            manifest_name(each.path)
            for each in stage_runs[: rebuilt[0] if rebuilt else None]
            if each.state() == "complete"
        ]
        check_recorded(run_folder, kept)
        _write_recipe_and_plan(run_folder, recipe, plan, machine)
        update_record(run_folder, add=(RECIPE_FILE, PLAN_FILE, *kept))
        reached = from_stage is None
        forced = False
        intact: set[str] = set()
        for index in range(len(stage_runs)):
            stage_run = stage_runs[index]
            if stage_run.stage.name == from_stage:
                forced = reached = True
            if stage_run.state() == "complete" and not forced:
                finish_promotion(stage_run.path)  # a kill after the rename may have left something to remove
                if partial_matches(stage_run.path, stage_run.fingerprint):  # of a failed --from: a second copy
                    shutil.rmtree(partial_path(stage_run.path))
                _seconds_file(stage_run).unlink(missing_ok=True)
                _publish(stage_run.stage.name, "done")
                yield stage_run, "done"
                continue
            if not reached:
                raise UserError(
                    f"--from {from_stage}: {stage_run.path.name} is not complete",
                    hint=f"remove --from, or use --from {stage_run.stage.name}",
                )
            if machine.verify_inputs and not stage_run.stage.checks_inputs:
                for other in stage_runs:
                    if other.stage.name in stage_run.inputs.keys() - intact:
                        check_stage(other.path, other.stage.name)
                        intact.add(other.stage.name)
            # Without an entry while it is built: a crash after the rename leaves a stage that the next run records.
            update_record(run_folder, remove=[manifest_name(stage_run.path)])
            build_stage(stage_run, plan.recipe, machine, stage_runs)
            intact.add(stage_run.stage.name)
            update_record(run_folder, add=[manifest_name(stage_run.path)])
            if stage_run.stage.name == "tokens":
                plan = plan_run(recipe, run_folder, machine)
                check_stages(plan.recipe, pending)
                stage_runs = resolve_stage_runs(plan.recipe, run_folder, machine, until_stage)
                _check_overwrite(stage_runs, may_replace)
                _write_recipe_and_plan(run_folder, recipe, plan, machine)
                update_record(run_folder, add=[PLAN_FILE])
                if plan.data_tokens is not None:
                    summary = plan.summary()
                    machine.progress.log(
                        f"plan: {describe_data(summary)}; pretraining {format_hours(summary['hours'])}"
                    )
            _publish(stage_run.stage.name, "done")
            yield stage_run, "built"


def _planned_stages(stage_runs: list[StageRun]) -> int:
    """Number of the stages whose knobs are known: all, or those before the text is counted."""
    names = [stage_run.stage.name for stage_run in stage_runs]
    if "tokens" not in names or stage_runs[names.index("tokens")].state() == "complete":
        return len(stage_runs)
    return names.index("tokens") + 1


def build_stage(stage_run: StageRun, recipe: Recipe, machine: Machine, stage_runs: list[StageRun]) -> None:
    """Build one stage in its partial folder, flush it to disk, write the manifest and promote the folder."""
    seconds_file = _seconds_file(stage_run)
    is_other = partial_path(stage_run.path).exists() and not partial_matches(stage_run.path, stage_run.fingerprint)
    partial = open_partial(stage_run.path, stage_run.fingerprint)
    if is_other:
        spent = format_hours(_read_seconds(seconds_file) / 3600)
        machine.progress.log(f"{stage_run.path.name}: starts anew: what was unfinished is of another recipe ({spent})")
        seconds_file.unlink(missing_ok=True)
    if Manifest.read(partial) is not None:  # written last: the stage was killed before its folder was renamed
        promote(partial, stage_run.path)
        seconds_file.unlink(missing_ok=True)
        return
    started_at = time.monotonic()
    previous_seconds = _read_seconds(seconds_file)
    try:
        section = getattr(recipe, stage_run.stage.section)
        reason = getattr(section, "one_device_reason", None)
        is_distributed = stage_run.stage.distributed and reason is None
        if is_distributed and world_size() == 1 and machine.devices > 1:
            metrics = _launcher().launch_stage(stage_run.path, stage_run.stage.name, machine)
        else:
            if reason is not None and (devices := max(machine.devices, world_size())) > 1:
                machine.progress.log(f"{stage_run.stage.name}: one of {devices} devices: {reason}")
            if is_distributed:
                _publish(stage_run.stage.name, ALL_RANKS)
            metrics = _run_stage_function(stage_run, recipe, partial, machine, stage_runs)
    finally:
        seconds = previous_seconds + time.monotonic() - started_at
        if partial.exists():
            _write_best_effort(seconds_file, f"{seconds:.2f}")
    sync_folder(partial)  # before the manifest, which says that all is there
    Manifest(
        stage=stage_run.stage.name,
        version=stage_run.stage.version,
        fingerprint=stage_run.fingerprint,
        sections=stage_run.sections,
        inputs=stage_run.inputs,
        files=list_files(partial),
        metrics=metrics,
        provenance=provenance(machine, seconds, RECORDED_PACKAGES),
    ).write(partial)
    promote(partial, stage_run.path)
    seconds_file.unlink(missing_ok=True)


def _run_stage_function(
    stage_run: StageRun, recipe: Recipe, partial: Path, machine: Machine, stage_runs: list[StageRun]
) -> dict[str, Any]:
    """Call the stage's function on its partial folder; returns its metrics."""
    names = (stage_run.stage.section, *stage_run.stage.extra_sections)
    inputs = {other.stage.name: other.path for other in stage_runs if other.stage.name in stage_run.inputs}
    with report_storage_errors(partial):
        return call_by_reference(stage_run.stage.function, RecipeView(recipe, names), inputs, partial, machine)


def run_as_rank(run_folder: Path, name: str, machine: Machine) -> None:
    """Run one rank of a distributed stage, whose partial folder the parent process has opened."""
    with _rendezvous().propagate_errors(), join_lock(run_folder):
        recipe = plan_run(read_recipe(run_folder), run_folder, machine).recipe
        stage_runs = resolve_stage_runs(recipe, run_folder, machine, name)
        stage_run = stage_runs[-1]
        _rendezvous().wait_for_partial_folder(stage_run.path, stage_run.fingerprint)
        metrics = _run_stage_function(stage_run, recipe, partial_path(stage_run.path), machine, stage_runs)
    if rank() == 0:
        _launcher().write_metrics(stage_run.path, metrics)


def _run_worker(
    recipe: Recipe, run_folder: Path, machine: Machine, until_stage: str | None, num_stages: int
) -> Iterator[tuple[StageRun, str]]:
    """The run as the other ranks execute it: distributed stages; the main rank builds the rest."""
    for index in range(num_stages):
        plan = plan_run(recipe, run_folder, machine)
        stage_runs = resolve_stage_runs(plan.recipe, run_folder, machine, until_stage)
        stage_run = stage_runs[index]
        if _rendezvous().wait_for(stage_run.stage.name) == ALL_RANKS:
            _rendezvous().wait_for_partial_folder(stage_run.path, stage_run.fingerprint)
            with join_lock(run_folder):
                _run_stage_function(stage_run, plan.recipe, partial_path(stage_run.path), machine, stage_runs)
        yield stage_run, "done"


def _rendezvous() -> ModuleType:
    """Communication with the other ranks; imports torch."""
    return importlib.import_module("groundup.parallel.rendezvous")


def _launcher() -> ModuleType:
    return importlib.import_module("groundup.parallel.elastic_launch")


def _publish(stage: str, status: str) -> None:
    """Publish the status of a stage to the other ranks, if there are any."""
    if world_size() > 1:
        _rendezvous().publish(stage, status)


def check_run_folder(run_folder: Path) -> None:
    """Raise UserError if the folder is not a run folder."""
    if not any((run_folder / name).is_file() for name in (RECIPE_FILE, RECORD_FILE)):
        raise UserError(f"{run_folder}: not a run folder (no {RECIPE_FILE})", hint="groundup run RECIPE makes one")


def read_recipe(run_folder: Path) -> Recipe:
    """The recipe of the last run in this folder. Raises UserError if the folder is not a run folder."""
    check_run_folder(run_folder)
    path = run_folder / RECIPE_FILE
    values = read_json_object(path, hint="groundup run RECIPE writes it again")
    try:
        return parse_recipe(values, source_name=str(path))
    except UserError:  # [machine] of an older version: may have other knobs, and does not matter any more
        return parse_recipe({name: value for name, value in values.items() if name != "machine"}, source_name=str(path))


def resolve_machine(recipe: Recipe, progress: Progress) -> Machine:
    """The machine of a recipe: [machine], with defaults for this computer."""
    section = recipe.machine
    values = {field.name: getattr(section, field.name, None) for field in fields(Machine)} | {
        "devices": configured_devices(section),
        "layout": section.layout.model_dump(),
        "stall_timeout_seconds": 60 * section.stall_timeout_minutes,
        "checkpoint_every_seconds": 60 * section.checkpoint_every_minutes,
        "cache_dir": Path(section.cache_dir).expanduser() if section.cache_dir else None,
    }
    values = {name: value for name, value in values.items() if value is not None}
    return Machine(**values | {"trackers": section.trackers, "progress": progress})


def _check_overwrite(stage_runs: list[StageRun], allowed: bool) -> None:
    stale = [stage_run for stage_run in stage_runs if stage_run.state() == "stale"]
    if not stale or allowed:
        return
    lines: dict[str, None] = {}
    for stage_run in stale:
        manifest = stage_run.manifest()
        assert manifest is not None
        lines |= dict.fromkeys(list_differences(manifest.sections, stage_run.sections))
        if manifest.version != stage_run.stage.version:
            lines |= {f"stage {stage_run.stage.name}: version {manifest.version} -> {stage_run.stage.version}": None}
    changes = "\n  ".join(lines or {"the content of a source file changed": None})
    raise UserError(
        f"the recipe differs from the one that built {stale[0].path.parent}:\n  {changes}\n"
        f"stages to rebuild: {', '.join(stage_run.stage.folder for stage_run in stale)}",
        hint="--replace rebuilds them; --set name=another keeps both runs",
    )


def _write_recipe_and_plan(run_folder: Path, recipe: Recipe, plan: Plan, machine: Machine) -> None:
    summary = plan.summary()
    if stages := estimate_run_seconds(plan, machine):
        summary["stage_seconds"] = stages
    values = {RECIPE_FILE: recipe.model_dump(mode="json", exclude_none=True), PLAN_FILE: summary}
    for name, value in values.items():
        text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
        write_atomically(run_folder / name, text.encode())


def _remove_temporary_files(run_folder: Path) -> None:
    """Remove files that a killed process was writing directly in the run folder, which is locked."""
    for path in run_folder.glob(".*"):
        if is_temporary(path):
            path.unlink()


def _seconds_file(stage_run: StageRun) -> Path:
    """Where the seconds spent on an unfinished stage are kept."""
    return stage_run.path.with_name(f".{stage_run.path.name}.seconds")


def _read_seconds(path: Path) -> float:
    try:
        return float(path.read_text())
    except (OSError, ValueError):  # none yet, or written to a full disk
        return 0.0


def _write_best_effort(path: Path, text: str) -> None:
    with suppress(OSError):  # a full disk must not hide the error being raised
        write_atomically(path, text.encode())
