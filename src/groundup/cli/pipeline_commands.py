"""Commands that decide and make: a recipe, its plan, its run."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from groundup.artifacts.errors import UserError
from groundup.artifacts.progress import PROGRESS_KINDS, format_duration
from groundup.cli.options import JsonOption, RecipeArgument, RunArgument, RunsOption, SetOption

LADDER_FOLDER = "ladder"
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
    from groundup.plan import init_recipe

    if out.exists():
        raise UserError(f"{out} exists", hint="choose another name with --out")
    answers: dict[str, Any] = {
        "goal": goal,
        "data": data,
        "hardware": hardware,
        "devices": devices,
        "hours": hours,
    }
    for question in init_recipe.QUESTIONS:
        if answers[question.name] is None:
            ask = sys.stdin.isatty()
            answers[question.name] = (
                typer.prompt(question.text, question.default, err=True) if ask else question.default
            )
    out.write_text(init_recipe.recipe_toml(answers, name=out.stem), encoding="utf-8")
    print(f"wrote {out}\nnext: groundup plan {out}")


def plan(
    recipe: RecipeArgument,
    sets: SetOption = None,
    pdf: Annotated[Path | None, typer.Option(help="Also write the blueprint as a PDF.")] = None,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Also build one rank of all on fake devices, and count.")
    ] = False,
    as_json: JsonOption = False,
    runs: RunsOption = Path("runs"),
) -> None:
    """What a recipe will cost: parameters, tokens, memory, layout, hours, money. Refuses what will not fit."""
    from groundup.plan import derive, plan_table
    from groundup.plan.prediction import predict_loss
    from groundup.recipe import load_recipe

    wanted = load_recipe(recipe, sets or ())
    planned = derive(wanted)
    facts = planned.summary()
    facts["predicted_loss"] = predict_loss(wanted, runs / wanted.name / LADDER_FOLDER)
    if wanted.data is not None:
        from groundup import pipeline
        from groundup.data.dedup_estimate import estimate_dedup

        facts["deduplication"] = estimate_dedup(
            wanted.data, pipeline.resolve_machine(wanted, PROGRESS_KINDS["none"]())
        )
    if simulate:
        from groundup.train import simulation as simulation

        _log("building one rank on fake devices: a minute or so")
        facts["simulation"] = simulation.simulate(planned)
    print(json.dumps(facts, indent=1) if as_json else plan_table.format_plan(facts))
    if pdf is not None:
        from groundup.report.plan_document import write_plan_pdf

        write_plan_pdf(facts, pdf)
        _log(f"wrote {pdf}")


def run(
    recipe: RecipeArgument,
    sets: SetOption = None,
    from_stage: Annotated[
        str | None, typer.Option("--from", metavar="STAGE", help="Build again from here.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="STAGE", help="Stop after this stage.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Build finished stages again whose recipe changed.")
    ] = False,
    runs: RunsOption = Path("runs"),
) -> None:
    """Build what the recipe asks for; what is finished stays, what was interrupted continues."""
    from groundup import pipeline
    from groundup.artifacts.rank_environment import is_main
    from groundup.recipe import load_recipe

    wanted = load_recipe(recipe, sets or ())
    first = is_main()
    machine = pipeline.resolve_machine(wanted, PROGRESS_KINDS[wanted.machine.progress if first else "none"]())
    folder = runs / wanted.name
    built = 0
    options = {"from_stage": from_stage, "until_stage": until, "replace_stale": replace}
    with _report_interrupt():
        for job, state in pipeline.run(wanted, folder, machine, **options):
            if not first:
                continue
            built += state == "built"
            manifest = job.manifest()
            seconds = manifest.provenance["seconds"] if manifest and state == "built" else None
            _log(
                f"{job.stage.folder:<14} "
                + ("complete" if seconds is None else f"built in {format_duration(seconds)}")
            )
    if built:
        from groundup.report.run_summary import summarize_run

        print(summarize_run(folder))
    elif first:
        print(f"{folder}: nothing to do, everything is complete")


def worker(run: RunArgument, stage: Annotated[str, typer.Argument()]) -> None:
    """One process of a stage that several make together; `run` starts it."""
    from groundup import pipeline
    from groundup.artifacts.rank_environment import is_main

    recipe = pipeline.read_recipe(run)
    progress = PROGRESS_KINDS[recipe.machine.progress if is_main() else "none"]()
    pipeline.run_as_rank(run, stage, pipeline.resolve_machine(recipe, progress))


def launch(
    recipe: RecipeArgument,
    on: Annotated[str, typer.Option(help="slurm, kubernetes or skypilot.")],
    sets: SetOption = None,
    out: Annotated[
        Path | None, typer.Option(help="The file to write; default: by the recipe's name.")
    ] = None,
    runs: RunsOption = Path("runs"),
) -> None:
    """Write the file with which a cluster runs the recipe on many machines: to read, complete and submit."""
    from groundup.plan import derive, job_file
    from groundup.recipe import load_recipe

    if on not in job_file.JOB_FORMATS:
        raise UserError(f"--on {on}: not known", hint=f"one of {', '.join(job_file.JOB_FORMATS)}")
    job = job_file.cluster_job(
        derive(load_recipe(recipe, sets or ())), str(recipe), tuple(sets or ()), str(runs)
    )
    out = out or Path(f"{job.name}.{job_file.FILE_SUFFIXES[on]}")
    if out.exists():
        raise UserError(f"{out} exists", hint="choose another name with --out")
    out.write_text(job_file.JOB_FORMATS[on](job), encoding="utf-8")
    print(f"wrote {out}: read it, and change what says CHANGE, before you submit it")


def sweep(
    recipe: RecipeArgument,
    sets: SetOption = None,
    until: Annotated[
        str, typer.Option("--until", metavar="STAGE", help="Build each variant up to this stage.")
    ] = "base",
    as_json: JsonOption = False,
    runs: RunsOption = Path("runs"),
) -> None:
    """Build variants side by side and compare them: --set train.learning_rate=1e-4,3e-4,1e-3."""
    from groundup import pipeline
    from groundup.experiments import sweep as sweeping
    from groundup.experiments.variants import build_variants

    recipes = sweeping.expand_grid(recipe, sets or ())
    first = next(iter(recipes.values()))
    machine = pipeline.resolve_machine(first, PROGRESS_KINDS[first.machine.progress]())
    home = runs / first.name
    with _report_interrupt():
        outcomes = build_variants(recipes, home / "sweep", machine, until=until, reuse_from=[home], log=_log)
    print(sweeping.results_to_json(outcomes) if as_json else sweeping.format_sweep(outcomes))
    if all(outcome.error for outcome in outcomes):
        raise UserError("every variant failed", hint="the table says why")


def ladder(
    recipe: RecipeArgument,
    sets: SetOption = None,
    sizes: Annotated[int, typer.Option(min=4, help="How many small models.")] = 5,
    compute_fraction: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Compute of the largest, of the recipe's own.")
    ] = 0.1,
    as_json: JsonOption = False,
    runs: RunsOption = Path("runs"),
) -> None:
    """Train a row of small models, fit a law to their losses, and predict the recipe's own: `plan` then shows it."""
    from groundup import pipeline
    from groundup.experiments import ladder as climbing
    from groundup.experiments.variants import build_variants
    from groundup.recipe import load_recipe

    wanted = load_recipe(recipe, sets or ())
    machine = pipeline.resolve_machine(wanted, PROGRESS_KINDS[wanted.machine.progress]())
    home = runs / wanted.name
    small = climbing.ladder_recipes(wanted, sizes, compute_fraction)
    with _report_interrupt():
        outcomes = build_variants(small, home / LADDER_FOLDER, machine, reuse_from=[home], log=_log)
    found = climbing.fit_and_predict(wanted, outcomes, home / LADDER_FOLDER)
    del found["scaling_law"]
    print(json.dumps(found, indent=1) if as_json else climbing.format_ladder(found))


@contextmanager
def _report_interrupt() -> Iterator[None]:
    """Say of interrupted work that it is not lost; of several processes of one run the launcher says it."""
    try:
        yield
    except KeyboardInterrupt:
        from groundup.artifacts.rank_environment import world_size

        if world_size() == 1:
            _log("stopped; the same command continues")
        raise


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
