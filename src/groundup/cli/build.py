"""Commands that decide and make: a recipe, its plan, its run."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from groundup.artifacts.errors import UserError
from groundup.artifacts.progress import KINDS, clock
from groundup.cli.options import AsJson, Recipe, Run, Runs, Sets

LADDER = "ladder"
"""The folder of a run's ladder, beside its stages."""


def init(
    out: Annotated[Path, typer.Option(help="The recipe to write.")] = Path("recipe.toml"),
    goal: Annotated[str | None, typer.Option(help="base, chat or chat-4bit.")] = None,
    data: Annotated[
        str | None, typer.Option(help="Your text: files with globs, an address, or `sample`.")
    ] = None,
    hardware: Annotated[
        str | None, typer.Option(help="A device that the plan knows, such as cpu-2 or h100.")
    ] = None,
    devices: Annotated[int | None, typer.Option(min=1, help="How many of them.")] = None,
    hours: Annotated[float | None, typer.Option(help="Time for pretraining.")] = None,
) -> None:
    """Ask for goal, data, hardware and budget, and write a recipe made for them."""
    from groundup.plan import advise

    if out.exists():
        raise UserError(f"{out} exists", hint="choose another name with --out")
    answers: dict[str, Any] = {
        "goal": goal,
        "data": data,
        "hardware": hardware,
        "devices": devices,
        "hours": hours,
    }
    for question in advise.QUESTIONS:
        if answers[question.name] is None:
            ask = sys.stdin.isatty()
            answers[question.name] = (
                typer.prompt(question.text, question.default, err=True) if ask else question.default
            )
    out.write_text(advise.recipe_text(answers, name=out.stem), encoding="utf-8")
    print(f"wrote {out}\nnext: groundup plan {out}")


def plan(
    recipe: Recipe,
    sets: Sets = None,
    pdf: Annotated[Path | None, typer.Option(help="Also write the blueprint as a PDF.")] = None,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Also build one rank of all on fake devices, and count.")
    ] = False,
    as_json: AsJson = False,
    runs: Runs = Path("runs"),
) -> None:
    """What a recipe will cost: parameters, tokens, memory, layout, hours, money. Refuses what will not fit."""
    from groundup.plan import derive, tell
    from groundup.plan.expected import expected
    from groundup.recipe import load

    wanted = load(recipe, sets or ())
    planned = derive(wanted)
    facts = planned.facts()
    facts["expected"] = expected(wanted, runs / wanted.name / LADDER)
    if wanted.data is not None:
        from groundup import pipeline
        from groundup.data.expect import deduplication

        facts["deduplication"] = deduplication(wanted.data, pipeline.machine_for(wanted, KINDS["none"]()))
    if simulate:
        from groundup.train import simulate as simulation

        _note("building one rank on fake devices: a minute or so")
        facts["simulation"] = simulation.simulate(planned)
    print(json.dumps(facts, indent=1) if as_json else tell.table(facts))
    if pdf is not None:
        from groundup.report.blueprint import write_blueprint

        write_blueprint(facts, pdf)
        _note(f"wrote {pdf}")


def run(
    recipe: Recipe,
    sets: Sets = None,
    from_stage: Annotated[
        str | None, typer.Option("--from", metavar="STAGE", help="Build again from here.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="STAGE", help="Stop after this stage.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Build finished stages again whose recipe changed.")
    ] = False,
    runs: Runs = Path("runs"),
) -> None:
    """Build what the recipe asks for; what is finished stays, what was interrupted continues."""
    from groundup import pipeline, ranks
    from groundup.recipe import load

    wanted = load(recipe, sets or ())
    first = ranks.first()
    machine = pipeline.machine_for(wanted, KINDS[wanted.machine.progress if first else "none"]())
    folder = runs / wanted.name
    built = 0
    options = {"from_stage": from_stage, "until_stage": until, "replace_stale": replace}
    with _continuing():
        for job, state in pipeline.run(wanted, folder, machine, **options):
            if not first:
                continue
            built += state == "built"
            manifest = job.manifest()
            seconds = manifest.provenance["seconds"] if manifest and state == "built" else None
            _note(
                f"{job.stage.folder:<14} " + ("complete" if seconds is None else f"built in {clock(seconds)}")
            )
    if built:
        from groundup.report.summary import summary

        print(summary(folder))
    elif first:
        print(f"{folder}: nothing to do, everything is complete")


def rank(run: Run, stage: Annotated[str, typer.Argument()]) -> None:
    """One process of a stage that several make together; `run` starts it."""
    from groundup import pipeline, ranks

    recipe = pipeline.read_recipe(run)
    progress = KINDS[recipe.machine.progress if ranks.first() else "none"]()
    pipeline.take_part(run, stage, pipeline.machine_for(recipe, progress))


def launch(
    recipe: Recipe,
    on: Annotated[str, typer.Option(help="slurm, kubernetes or skypilot.")],
    sets: Sets = None,
    out: Annotated[
        Path | None, typer.Option(help="The file to write; default: by the recipe's name.")
    ] = None,
    runs: Runs = Path("runs"),
) -> None:
    """Write the file with which a cluster runs the recipe on many machines: to read, complete and submit."""
    from groundup.plan import derive, job_file
    from groundup.recipe import load

    if on not in job_file.KINDS:
        raise UserError(f"--on {on}: not known", hint=f"one of {', '.join(job_file.KINDS)}")
    job = job_file.job_of(derive(load(recipe, sets or ())), str(recipe), tuple(sets or ()), str(runs))
    out = out or Path(f"{job.name}.{job_file.ENDINGS[on]}")
    if out.exists():
        raise UserError(f"{out} exists", hint="choose another name with --out")
    out.write_text(job_file.KINDS[on](job), encoding="utf-8")
    print(f"wrote {out}: read it, and change what says CHANGE, before you submit it")


def sweep(
    recipe: Recipe,
    sets: Sets = None,
    until: Annotated[
        str, typer.Option("--until", metavar="STAGE", help="Build each variant up to this stage.")
    ] = "base",
    as_json: AsJson = False,
    runs: Runs = Path("runs"),
) -> None:
    """Build variants side by side and compare them: --set train.learning_rate=1e-4,3e-4,1e-3."""
    from groundup import pipeline
    from groundup.experiments import sweep as sweeping
    from groundup.experiments.variants import build_all

    recipes = sweeping.grid(recipe, sets or ())
    first = next(iter(recipes.values()))
    machine = pipeline.machine_for(first, KINDS[first.machine.progress]())
    home = runs / first.name
    with _continuing():
        outcomes = build_all(recipes, home / "sweep", machine, until=until, borrow_from=[home], tell=_note)
    print(sweeping.as_json(outcomes) if as_json else sweeping.table(outcomes))
    if all(outcome.error for outcome in outcomes):
        raise UserError("every variant failed", hint="the table says why")


def ladder(
    recipe: Recipe,
    sets: Sets = None,
    rungs: Annotated[int, typer.Option(min=4, help="How many small models.")] = 5,
    share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Compute of the largest, of the recipe's own.")
    ] = 0.1,
    as_json: AsJson = False,
    runs: Runs = Path("runs"),
) -> None:
    """Train a row of small models, fit a law to their losses, and predict the recipe's own: `plan` then shows it."""
    from groundup import pipeline
    from groundup.experiments import ladder as climbing
    from groundup.experiments.variants import build_all
    from groundup.recipe import load

    wanted = load(recipe, sets or ())
    machine = pipeline.machine_for(wanted, KINDS[wanted.machine.progress]())
    home = runs / wanted.name
    small = climbing.rungs(wanted, rungs, share)
    with _continuing():
        outcomes = build_all(small, home / LADDER, machine, borrow_from=[home], tell=_note)
    found = climbing.conclude(wanted, outcomes, home / LADDER)
    del found["law"]
    print(json.dumps(found, indent=1) if as_json else climbing.table(found))


@contextmanager
def _continuing() -> Iterator[None]:
    """Say of interrupted work that it is not lost; of several processes of one run the launcher says it."""
    try:
        yield
    except KeyboardInterrupt:
        from groundup import ranks

        if ranks.number() == 1:
            _note("stopped; the same command continues")
        raise


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
