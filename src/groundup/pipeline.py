"""The stages in their order, and the runner that does what is missing and nothing else.

A stage reads only the recipe sections it declares and the finished folders of earlier stages, and writes one folder.
Its fingerprint is made of exactly these, so that "is it up to date?" has one answer on every machine.
"""

import importlib
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any

from groundup.artifacts.differences import list_differences
from groundup.artifacts.directory import lock_folder, open_partial, partial_path, promote, write_atomically
from groundup.artifacts.errors import UserError
from groundup.artifacts.fingerprint import fingerprint
from groundup.artifacts.machine import Machine, provenance
from groundup.artifacts.manifest import Manifest, list_files
from groundup.artifacts.rank_environment import rank, world_size
from groundup.plan import Plan, derive
from groundup.plan.engine_support import check_engine_installed
from groundup.plan.parallel_layout import configured_devices
from groundup.recipe import Recipe, parse_recipe
from groundup.recipe.recipe_view import RecipeView

RECORDED_PACKAGES = (
    "groundup", "torch", "numpy", "daft", "tokenizers", "safetensors", "trafilatura", "fastwarc", "typst",
)  # fmt: skip
"""Recorded in every manifest."""

NOT_FINGERPRINTED = {"train": {"engine"}}
"""Knobs outside [machine] that say where a run is computed: its recipe.json has them, no fingerprint."""

RECIPE_FILE = "recipe.json"
PLAN_FILE = "plan.json"

ALL_RANKS = "all-ranks"
"""Published status of a stage that every rank takes part in; any other status means that the stage is done."""


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline.

    Attributes:
        name: what the stage makes; also its name on the command line.
        folder: its place in the run.
        section: the recipe table whose presence asks for the stage.
        function: "module:function" with the signature run(recipe, inputs, out, machine) -> metrics.
        reads: the recipe tables it may read, beside `section`.
        inputs: earlier stages whose folders it may read, those of them that the recipe asks for.
        needs: recipe tables without which it cannot be made.
        version: raised when the same recipe would give another result than before.
        together: where there are several ranks, all of them make it; any other stage is the first one's alone.
        identity: "module:function" that maps (section, machine) to the content identity of outside inputs.
    """

    name: str
    folder: str
    section: str
    function: str
    extra_sections: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    required_sections: tuple[str, ...] = ()
    version: int = 1
    distributed: bool = False
    identity: str | None = None


STAGES = (
    Stage(
        "data", "01-data", "data", "groundup.data.stage:run", extra_sections=("seed",),
        identity="groundup.data.input_hashes:identity",
        version=2,
    ),
    Stage(
        "tokenizer", "02-tokenizer", "tokenizer", "groundup.tokenizer.stage:train", extra_sections=("seed",), inputs=("data",),
        required_sections=("data",), identity="groundup.tokenizer.identity:hash_tokenizers",
    ),
    Stage("tokens", "03-tokens", "tokenizer", "groundup.tokenizer.stage:encode", inputs=("data", "tokenizer")),
    Stage(
        "base", "04-base", "train", "groundup.train.stage:run", extra_sections=("model", "seed"), inputs=("tokenizer", "tokens"),
        required_sections=("model", "tokenizer"), distributed=True, identity="groundup.tokenizer.identity:hash_shards",
    ),
    Stage(
        "scores", "05-scores", "evaluate", "groundup.evaluate.stage:run", extra_sections=("seed",),
        inputs=("tokenizer", "tokens", "base"), required_sections=("train",),
        identity="groundup.evaluate.identity:hash_task_files",
    ),
    Stage(
        "chat", "06-chat", "finetune", "groundup.finetune.stage:run", extra_sections=("seed",), inputs=("tokenizer", "base"),
        required_sections=("train",), identity="groundup.finetune.conversation_identity:identity",
    ),
    Stage(
        "quantized", "07-quantized", "quantize", "groundup.quantize.stage:run", extra_sections=("seed",),
        inputs=("tokenizer", "tokens", "base", "chat"), required_sections=("train",),
    ),
    Stage("export", "08-export", "export", "groundup.interop.stage:run", inputs=("base", "chat"), required_sections=("train",)),
    Stage(
        "report", "09-report", "report", "groundup.report.stage:run", extra_sections=("name",),
        inputs=("data", "tokenizer", "tokens", "base", "scores", "chat", "quantized", "export"),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class StageRun:
    """A stage of one recipe: where it goes and what it must be."""

    stage: Stage
    path: Path
    sections: dict[str, Any]
    inputs: dict[str, str]
    fingerprint: str

    def manifest(self) -> Manifest | None:
        return Manifest.read(self.path)

    def state(self) -> str:
        """complete, stale (made by another recipe), interrupted or missing."""
        manifest = self.manifest()
        if manifest is not None:
            return "complete" if manifest.fingerprint == self.fingerprint else "stale"
        return "interrupted" if partial_path(self.path).exists() else "missing"


def resolve_stage_runs(
    recipe: Recipe, run_folder: Path, machine: Machine, until_stage: str | None = None
) -> list[StageRun]:
    """What `recipe` asks for, in order, as far as `until_stage`; `recipe` has its derived values already."""
    names = [stage.name for stage in STAGES]
    wanted = STAGES if until_stage is None else STAGES[: names.index(until_stage) + 1]
    found: dict[str, StageRun] = {}
    for stage in wanted:
        section = getattr(recipe, stage.section)
        if section is None:
            continue
        if missing := [table for table in stage.required_sections if getattr(recipe, table) is None]:
            raise UserError(
                f"[{stage.section}] needs [{missing[0]}], which the recipe does not have",
                hint=f"add a [{missing[0]}] table, or take [{stage.section}] out",
            )
        names = (stage.section, *stage.extra_sections)
        values = {name: getattr(recipe, name) for name in names}
        sections: dict[str, Any] = {
            name: value.model_dump(mode="json", exclude=NOT_FINGERPRINTED.get(name))
            if hasattr(value, "model_dump")
            else value
            for name, value in values.items()
        }
        inputs = {name: found[name].fingerprint for name in stage.inputs if name in found}
        identity = {"stage": stage.name, "version": stage.version, "sections": sections, "inputs": inputs}
        try:
            outside = _call_by_reference(stage.identity, section, machine) if stage.identity else {}
            mark = fingerprint(identity | {"outside": outside})
        except UserError:
            if (mark := _fingerprint_without_inputs(run_folder / stage.folder, identity)) is None:
                raise
        found[stage.name] = StageRun(stage, run_folder / stage.folder, sections, inputs, mark)
    return list(found.values())


def _fingerprint_without_inputs(folder: Path, identity: dict[str, Any]) -> str | None:
    """The fingerprint of a stage that was finished by the same recipe from files that are not here any more.

    A crawl is deleted when it is cleaned, and a finished corpus goes to the machine that trains.
    """
    made = Manifest.read(folder)
    was = {name: getattr(made, name, None) for name in identity}
    return made.fingerprint if made and was == json.loads(json.dumps(identity)) else None


def run(
    recipe: Recipe,
    run_folder: Path,
    machine: Machine,
    *,
    from_stage: str | None = None,
    until_stage: str | None = None,
    replace_stale: bool = False,
) -> Iterator[tuple[StageRun, str]]:
    """Make what is missing, stage by stage; yields (job, "done" | "built") after each.

    Raises UserError when a finished stage belongs to another recipe and `replace_stale` is false: nothing is touched.
    """
    for name in (from_stage, until_stage):
        _check_stage_name(name)
    if world_size() == 1:
        yield from _run_main(recipe, run_folder, machine, from_stage, until_stage, replace_stale)
        return
    rendezvous = _rendezvous()
    with rendezvous.propagate_errors():
        todo = resolve_stage_runs(derive(recipe).recipe, run_folder, machine, until_stage)
        mine = {job.stage.name: {"sections": job.sections, "identity": job.fingerprint} for job in todo}
        mine = json.loads(json.dumps(mine))
        rendezvous.check_same(json.dumps(mine), lambda first: list_differences(json.loads(first), mine)[0])
        if rank() == 0:
            yield from _run_main(recipe, run_folder, machine, from_stage, until_stage, replace_stale)
        else:
            yield from _run_worker(todo, derive(recipe).recipe, machine)


def _run_main(
    recipe: Recipe,
    run_folder: Path,
    machine: Machine,
    from_stage: str | None,
    until_stage: str | None,
    replace_stale: bool,
) -> Iterator[tuple[StageRun, str]]:
    """What the only or the first process does: every stage in its turn."""
    plan = derive(recipe)
    with lock_folder(run_folder):
        todo = resolve_stage_runs(plan.recipe, run_folder, machine, until_stage)
        if not todo:
            raise UserError(
                "the recipe asks for nothing", hint="add a table such as [data], [tokenizer] or [train]"
            )
        asked = {job.stage.name for job in todo}
        for option, name in (("--from", from_stage), ("--until", until_stage)):
            if name is not None and name not in asked:
                section = next(stage.section for stage in STAGES if stage.name == name)
                raise UserError(
                    f"{option} {name}: the recipe does not ask for it", hint=f"add a [{section}] table"
                )
        _check_overwrite(todo, replace_stale or from_stage is not None)
        if plan.recipe.train and any(j.stage.section == "train" and j.state() != "complete" for j in todo):
            check_engine_installed(plan.recipe.train.engine)  # now, and not when the data are ready
        _write_recipe_and_plan(run_folder, recipe, plan)
        reached = from_stage is None
        forced = False
        for job in todo:
            if job.stage.name == from_stage:
                forced = reached = True
            if job.state() == "complete" and not forced:
                _publish(job.stage.name, "done")
                yield job, "done"
                continue
            if not reached:
                raise UserError(
                    f"--from {from_stage}: {job.path.name} is not complete",
                    hint=f"leave --from out, or use --from {job.stage.name}",
                )
            build_stage(job, plan.recipe, run_folder, machine, todo)
            _publish(job.stage.name, "done")
            yield job, "built"


def build_stage(
    stage_run: StageRun, recipe: Recipe, run_folder: Path, machine: Machine, stage_runs: list[StageRun]
) -> None:
    """Run one stage in its work folder; give the folder its manifest and its name when everything is there."""
    partial = open_partial(stage_run.path, stage_run.fingerprint)
    began = time.monotonic()
    seconds_file = run_folder / f".{stage_run.stage.folder}.seconds"
    before = float(seconds_file.read_text()) if seconds_file.exists() else 0.0
    try:
        if stage_run.stage.distributed and world_size() == 1 and machine.devices > 1:
            metrics = _launcher().launch_stage(stage_run.path, stage_run.stage.name, machine)
        else:
            if stage_run.stage.distributed:
                _publish(stage_run.stage.name, ALL_RANKS)
            metrics = _run_stage_function(stage_run, recipe, partial, machine, stage_runs)
    except OSError as error:
        if error.errno == 28:  # ENOSPC
            raise UserError(
                f"no space left on the disk of {run_folder} ({shutil.disk_usage(run_folder).free / 1e6:.0f} MB free)",
                hint="free some space and run again: the work so far is kept",
            ) from None
        raise
    finally:
        seconds = before + time.monotonic() - began
        if partial.exists():
            _write_best_effort(seconds_file, f"{seconds:.2f}")
    mark = partial / ".fingerprint"
    files = {name: facts for name, facts in list_files(partial).items() if name != mark.name}
    Manifest(
        stage=stage_run.stage.name,
        version=stage_run.stage.version,
        fingerprint=stage_run.fingerprint,
        sections=stage_run.sections,
        inputs=stage_run.inputs,
        files=files,
        metrics=metrics,
        provenance=provenance(machine, seconds, RECORDED_PACKAGES),
    ).write(partial)
    promote(partial, stage_run.path)
    seconds_file.unlink(missing_ok=True)


def _run_stage_function(
    stage_run: StageRun, recipe: Recipe, partial: Path, machine: Machine, stage_runs: list[StageRun]
) -> dict[str, Any]:
    """Call the stage's function on its work folder; returns its metrics."""
    names = (stage_run.stage.section, *stage_run.stage.extra_sections)
    inputs = {other.stage.name: other.path for other in stage_runs if other.stage.name in stage_run.inputs}
    return _call_by_reference(stage_run.stage.function, RecipeView(recipe, names), inputs, partial, machine)


def run_as_rank(run_folder: Path, name: str, machine: Machine) -> None:
    """Be one rank of those that make a stage, whose work folder another process of the same run has opened."""
    with _rendezvous().propagate_errors():
        recipe = derive(read_recipe(run_folder)).recipe
        todo = resolve_stage_runs(recipe, run_folder, machine, name)
        job = todo[-1]
        _rendezvous().wait_for_partial_folder(job.path, job.fingerprint)
        metrics = _run_stage_function(job, recipe, partial_path(job.path), machine, todo)
    if rank() == 0:
        _launcher().write_metrics(job.path, metrics)


def _run_worker(
    stage_runs: list[StageRun], recipe: Recipe, machine: Machine
) -> Iterator[tuple[StageRun, str]]:
    """What a rank does that is not the first: wait for each stage, and take part in those that are made together."""
    for job in stage_runs:
        if _rendezvous().wait_for(job.stage.name) == ALL_RANKS:
            _rendezvous().wait_for_partial_folder(job.path, job.fingerprint)
            _run_stage_function(job, recipe, partial_path(job.path), machine, stage_runs)
        yield job, "done"


def _rendezvous() -> ModuleType:
    """Communication with the other ranks; imports torch."""
    return importlib.import_module("groundup.parallel.rendezvous")


def _launcher() -> ModuleType:
    return importlib.import_module("groundup.parallel.elastic_launch")


def _publish(stage: str, status: str) -> None:
    """Tell the other ranks, if there are any, that a stage is done or is for all of them."""
    if world_size() > 1:
        _rendezvous().publish(stage, status)


def read_recipe(run_folder: Path) -> Recipe:
    """The recipe that a run folder was last asked for. Raises UserError where there is none."""
    path = run_folder / RECIPE_FILE
    if not path.is_file():
        raise UserError(
            f"{run_folder}: not a run folder (no {RECIPE_FILE})", hint="groundup run RECIPE makes one"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{path}: not valid JSON ({error})", hint="groundup run RECIPE writes it anew"
        ) from None
    try:
        return parse_recipe(values, source_name=str(path))
    except (
        UserError
    ):  # an older version's recipe may know knobs that are gone; where it ran does not matter any more
        return parse_recipe(
            {name: value for name, value in values.items() if name != "machine"}, source_name=str(path)
        )


def resolve_machine(recipe: Recipe, progress: Any) -> Machine:
    """The machine as [machine] describes it, with everything unsaid taken from what is here."""
    section = recipe.machine
    given = {field.name: getattr(section, field.name, None) for field in fields(Machine)} | {
        "devices": configured_devices(section),
        "layout": section.layout.model_dump(),
        "stall_timeout_seconds": 60 * section.stall_timeout_minutes,
        "checkpoint_every_seconds": 60 * section.checkpoint_every_minutes,
        "cache_dir": Path(section.cache_dir).expanduser() if section.cache_dir else None,
    }
    given = {name: value for name, value in given.items() if value is not None}
    return Machine(**given | {"trackers": section.trackers, "progress": progress})


def _check_overwrite(stage_runs: list[StageRun], allowed: bool) -> None:
    stale = [job for job in stage_runs if job.state() == "stale"]
    if not stale or allowed:
        return
    lines: dict[str, None] = {}
    for job in stale:
        manifest = job.manifest()
        assert manifest is not None
        lines |= dict.fromkeys(list_differences(manifest.sections, job.sections))
        if manifest.version != job.stage.version:
            lines |= {f"stage {job.stage.name}: version {manifest.version} -> {job.stage.version}": None}
    changes = "\n  ".join(lines or {"the content of a source file changed": None})
    raise UserError(
        f"the recipe is not the one that {stale[0].path.parent} was built with:\n  {changes}\n"
        f"would be built again: {', '.join(job.stage.folder for job in stale)}",
        hint="--replace builds them again; --set name=another keeps both",
    )


def _write_recipe_and_plan(run_folder: Path, recipe: Recipe, plan: Plan) -> None:
    as_asked = (
        json.dumps(recipe.model_dump(mode="json", exclude_none=True), indent=1, ensure_ascii=False) + "\n"
    )
    write_atomically(run_folder / RECIPE_FILE, as_asked.encode())
    facts = json.dumps(plan.summary(), indent=1, ensure_ascii=False) + "\n"
    write_atomically(run_folder / PLAN_FILE, facts.encode())


def _check_stage_name(name: str | None) -> None:
    known = [stage.name for stage in STAGES]
    if name is not None and name not in known:
        raise UserError(f"{name}: no such stage", hint=f"one of {', '.join(known)}")


def _call_by_reference(reference: str, *arguments: Any) -> Any:
    module, _, function = reference.partition(":")
    return getattr(importlib.import_module(module), function)(*arguments)


def _write_best_effort(path: Path, text: str) -> None:
    with suppress(OSError):  # a full disk must not hide the error that is on its way up
        path.write_text(text)
