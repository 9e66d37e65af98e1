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
from typing import Any

from groundup import ranks
from groundup.artifacts.differences import differences
from groundup.artifacts.directory import lock, open_partial, partial_path, promote, write_atomically
from groundup.artifacts.errors import UserError
from groundup.artifacts.fingerprint import fingerprint
from groundup.artifacts.machine import Machine, provenance
from groundup.artifacts.manifest import Manifest, list_files
from groundup.plan import Plan, derive
from groundup.plan.engines import check_installed
from groundup.plan.layout import devices_here
from groundup.recipe import Recipe, parse
from groundup.recipe.sections import Sections

PACKAGES = (
    "groundup", "torch", "numpy", "daft", "tokenizers", "safetensors", "trafilatura", "fastwarc", "typst",
)  # fmt: skip
"""Recorded in every manifest."""

WHERE = {"train": {"engine"}}
"""Knobs outside [machine] that say where a run is computed: its recipe.json has them, no fingerprint."""

RECIPE_FILE = "recipe.json"
PLAN_FILE = "plan.json"


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
    reads: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    version: int = 1
    together: bool = False
    identity: str | None = None


STAGES = (
    Stage(
        "data", "01-data", "data", "groundup.data.stage:run", reads=("seed",), identity="groundup.data.identity:identity",
        version=2,
    ),
    Stage(
        "tokenizer", "02-tokenizer", "tokenizer", "groundup.tokenizer.stage:train", reads=("seed",), inputs=("data",),
        needs=("data",), identity="groundup.tokenizer.identity:tokenizers",
    ),
    Stage("tokens", "03-tokens", "tokenizer", "groundup.tokenizer.stage:encode", inputs=("data", "tokenizer")),
    Stage(
        "base", "04-base", "train", "groundup.train.stage:run", reads=("model", "seed"), inputs=("tokenizer", "tokens"),
        needs=("model", "tokenizer"), together=True, identity="groundup.tokenizer.identity:shards",
    ),
    Stage(
        "scores", "05-scores", "evaluate", "groundup.evaluate.stage:run", reads=("seed",),
        inputs=("tokenizer", "tokens", "base"), needs=("train",), identity="groundup.evaluate.identity:identity",
    ),
    Stage(
        "chat", "06-chat", "finetune", "groundup.finetune.stage:run", reads=("seed",), inputs=("tokenizer", "base"),
        needs=("train",), identity="groundup.finetune.identity:identity",
    ),
    Stage(
        "quantized", "07-quantized", "quantize", "groundup.quantize.stage:run", reads=("seed",),
        inputs=("tokenizer", "tokens", "base", "chat"), needs=("train",),
    ),
    Stage("export", "08-export", "export", "groundup.interop.stage:run", inputs=("base", "chat"), needs=("train",)),
    Stage(
        "report", "09-report", "report", "groundup.report.stage:run", reads=("name",),
        inputs=("data", "tokenizer", "tokens", "base", "scores", "chat", "quantized", "export"),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Job:
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


def jobs(recipe: Recipe, run: Path, machine: Machine, until_stage: str | None = None) -> list[Job]:
    """What `recipe` asks for, in order, as far as `until_stage`; `recipe` has its derived values already."""
    names = [stage.name for stage in STAGES]
    wanted = STAGES if until_stage is None else STAGES[: names.index(until_stage) + 1]
    found: dict[str, Job] = {}
    for stage in wanted:
        section = getattr(recipe, stage.section)
        if section is None:
            continue
        if missing := [table for table in stage.needs if getattr(recipe, table) is None]:
            raise UserError(
                f"[{stage.section}] needs [{missing[0]}], which the recipe does not have",
                hint=f"add a [{missing[0]}] table, or take [{stage.section}] out",
            )
        names = (stage.section, *stage.reads)
        values = {name: getattr(recipe, name) for name in names}
        sections: dict[str, Any] = {
            name: value.model_dump(mode="json", exclude=WHERE.get(name))
            if hasattr(value, "model_dump")
            else value
            for name, value in values.items()
        }
        inputs = {name: found[name].fingerprint for name in stage.inputs if name in found}
        identity = {"stage": stage.name, "version": stage.version, "sections": sections, "inputs": inputs}
        try:
            outside = _call(stage.identity, section, machine) if stage.identity else {}
            mark = fingerprint(identity | {"outside": outside})
        except UserError:
            if (mark := _of_what_is_gone(run / stage.folder, identity)) is None:
                raise
        found[stage.name] = Job(stage, run / stage.folder, sections, inputs, mark)
    return list(found.values())


def _of_what_is_gone(folder: Path, identity: dict[str, Any]) -> str | None:
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
) -> Iterator[tuple[Job, str]]:
    """Make what is missing, stage by stage; yields (job, "done" | "built") after each.

    Raises UserError when a finished stage belongs to another recipe and `replace_stale` is false: nothing is touched.
    """
    for name in (from_stage, until_stage):
        _check_stage_name(name)
    if ranks.number() == 1:
        yield from _lead(recipe, run_folder, machine, from_stage, until_stage, replace_stale)
        return
    world = ranks.world()
    with world.as_one():
        todo = jobs(derive(recipe).recipe, run_folder, machine, until_stage)
        mine = {job.stage.name: {"sections": job.sections, "identity": job.fingerprint} for job in todo}
        mine = json.loads(json.dumps(mine))
        world.agree(json.dumps(mine), lambda first: differences(json.loads(first), mine)[0])
        if world.own_rank() == 0:
            yield from _lead(recipe, run_folder, machine, from_stage, until_stage, replace_stale)
        else:
            yield from _follow(todo, derive(recipe).recipe, machine)


def _lead(
    recipe: Recipe,
    run_folder: Path,
    machine: Machine,
    from_stage: str | None,
    until_stage: str | None,
    replace_stale: bool,
) -> Iterator[tuple[Job, str]]:
    """What the only or the first process does: every stage in its turn."""
    plan = derive(recipe)
    with lock(run_folder):
        todo = jobs(plan.recipe, run_folder, machine, until_stage)
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
        _refuse_to_overwrite(todo, replace_stale or from_stage is not None)
        if plan.recipe.train and any(j.stage.section == "train" and j.state() != "complete" for j in todo):
            check_installed(plan.recipe.train.engine)  # now, and not when the data are ready
        _write_record(run_folder, recipe, plan)
        reached = from_stage is None
        forced = False
        for job in todo:
            if job.stage.name == from_stage:
                forced = reached = True
            if job.state() == "complete" and not forced:
                ranks.tell(job.stage.name, "done")
                yield job, "done"
                continue
            if not reached:
                raise UserError(
                    f"--from {from_stage}: {job.path.name} is not complete",
                    hint=f"leave --from out, or use --from {job.stage.name}",
                )
            build(job, plan.recipe, run_folder, machine, todo)
            ranks.tell(job.stage.name, "done")
            yield job, "built"


def build(job: Job, recipe: Recipe, run_folder: Path, machine: Machine, todo: list[Job]) -> None:
    """Run one stage in its work folder; give the folder its manifest and its name when everything is there."""
    partial = open_partial(job.path, job.fingerprint)
    began = time.monotonic()
    seconds_file = run_folder / f".{job.stage.folder}.seconds"
    before = float(seconds_file.read_text()) if seconds_file.exists() else 0.0
    try:
        if job.stage.together and ranks.number() == 1 and machine.devices > 1:
            metrics = ranks.perform(job.path, job.stage.name, machine)
        else:
            if job.stage.together:
                ranks.tell(job.stage.name, ranks.TOGETHER)
            metrics = _perform(job, recipe, partial, machine, todo)
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
            _try_to_write(seconds_file, f"{seconds:.2f}")
    mark = partial / ".fingerprint"
    files = {name: facts for name, facts in list_files(partial).items() if name != mark.name}
    Manifest(
        stage=job.stage.name,
        version=job.stage.version,
        fingerprint=job.fingerprint,
        sections=job.sections,
        inputs=job.inputs,
        files=files,
        metrics=metrics,
        provenance=provenance(machine, seconds, PACKAGES),
    ).write(partial)
    promote(partial, job.path)
    seconds_file.unlink(missing_ok=True)


def _perform(job: Job, recipe: Recipe, partial: Path, machine: Machine, todo: list[Job]) -> dict[str, Any]:
    """Call the stage's function on its work folder; returns its metrics."""
    names = (job.stage.section, *job.stage.reads)
    inputs = {other.stage.name: other.path for other in todo if other.stage.name in job.inputs}
    return _call(job.stage.function, Sections(recipe, names), inputs, partial, machine)


def take_part(run_folder: Path, name: str, machine: Machine) -> None:
    """Be one rank of those that make a stage, whose work folder another process of the same run has opened."""
    with ranks.world().as_one():
        recipe = derive(read_recipe(run_folder)).recipe
        todo = jobs(recipe, run_folder, machine, name)
        job = todo[-1]
        ranks.wait_until_open(job.path, job.fingerprint)
        metrics = _perform(job, recipe, partial_path(job.path), machine, todo)
    if ranks.world().own_rank() == 0:
        write_atomically(partial_path(job.path) / ranks.METRICS_FILE, json.dumps(metrics).encode())


def _follow(todo: list[Job], recipe: Recipe, machine: Machine) -> Iterator[tuple[Job, str]]:
    """What a rank does that is not the first: wait for each stage, and take part in those that are made together."""
    for job in todo:
        if ranks.world().hear(job.stage.name) == ranks.TOGETHER:
            ranks.wait_until_open(job.path, job.fingerprint)
            _perform(job, recipe, partial_path(job.path), machine, todo)
        yield job, "done"


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
        return parse(values, where=str(path))
    except (
        UserError
    ):  # an older version's recipe may know knobs that are gone; where it ran does not matter any more
        return parse({name: value for name, value in values.items() if name != "machine"}, where=str(path))


def machine_for(recipe: Recipe, progress: Any) -> Machine:
    """The machine as [machine] describes it, with everything unsaid taken from what is here."""
    section = recipe.machine
    given = {field.name: getattr(section, field.name, None) for field in fields(Machine)} | {
        "devices": devices_here(section),
        "layout": section.layout.model_dump(),
        "stall_seconds": 60 * section.stall_minutes,
        "checkpoint_seconds": 60 * section.checkpoint_minutes,
        "cache": Path(section.cache).expanduser() if section.cache else None,
    }
    given = {name: value for name, value in given.items() if value is not None}
    return Machine(**given | {"trackers": section.trackers, "progress": progress})


def _refuse_to_overwrite(todo: list[Job], allowed: bool) -> None:
    stale = [job for job in todo if job.state() == "stale"]
    if not stale or allowed:
        return
    lines: dict[str, None] = {}
    for job in stale:
        manifest = job.manifest()
        assert manifest is not None
        lines |= dict.fromkeys(differences(manifest.sections, job.sections))
        if manifest.version != job.stage.version:
            lines |= {f"stage {job.stage.name}: version {manifest.version} -> {job.stage.version}": None}
    changes = "\n  ".join(lines or {"the content of a source file changed": None})
    raise UserError(
        f"the recipe is not the one that {stale[0].path.parent} was built with:\n  {changes}\n"
        f"would be built again: {', '.join(job.stage.folder for job in stale)}",
        hint="--replace builds them again; --set name=another keeps both",
    )


def _write_record(run_folder: Path, recipe: Recipe, plan: Plan) -> None:
    as_asked = (
        json.dumps(recipe.model_dump(mode="json", exclude_none=True), indent=1, ensure_ascii=False) + "\n"
    )
    write_atomically(run_folder / RECIPE_FILE, as_asked.encode())
    facts = json.dumps(plan.facts(), indent=1, ensure_ascii=False) + "\n"
    write_atomically(run_folder / PLAN_FILE, facts.encode())


def _check_stage_name(name: str | None) -> None:
    known = [stage.name for stage in STAGES]
    if name is not None and name not in known:
        raise UserError(f"{name}: no such stage", hint=f"one of {', '.join(known)}")


def _call(reference: str, *arguments: Any) -> Any:
    module, _, function = reference.partition(":")
    return getattr(importlib.import_module(module), function)(*arguments)


def _try_to_write(path: Path, text: str) -> None:
    with suppress(OSError):  # a full disk must not hide the error that is on its way up
        path.write_text(text)
