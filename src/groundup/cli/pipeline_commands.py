"""Commands that plan a recipe and run it: plan, run, launch, sweep, ladder."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from groundup.artifacts.directory import write_atomically
from groundup.artifacts.errors import UserError
from groundup.artifacts.progress import PROGRESS_KINDS, format_duration
from groundup.cli.init_command import init as init
from groundup.cli.options import JsonOption, RecipeArgument, RunArgument, RunsOption, SetOption
from groundup.stages import STAGES

LADDER_FOLDER = "ladder"
"""Folder of a run that holds its ladder."""

STAGE_NAMES = ", ".join(stage.name for stage in STAGES)


def plan(
    recipe: Annotated[Path | None, typer.Argument(metavar="[RECIPE]", help="A recipe file (TOML).")] = None,
    sets: SetOption = None,
    pdf: Annotated[Path | None, typer.Option(help="Also write the plan as a PDF.")] = None,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Also build one rank on fake devices and measure its memory (slow).")
    ] = False,
    layouts: Annotated[
        bool,
        typer.Option(
            "--layouts", help="Instead: the fastest parallel layouts of the devices, and why the others lost."
        ),
    ] = False,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure training steps on this machine first: half a minute.")
    ] = False,
    history: Annotated[
        bool,
        typer.Option("--history", help="Instead: how wrong the plans of all runs in --runs were, time and memory."),
    ] = False,
    as_json: JsonOption = False,
    runs: RunsOption = Path("runs"),
) -> None:
    """Show what a recipe needs: parameters, tokens, memory, layout, hours and money.

    Exits with an error if the model does not fit on the devices. Nothing is trained.

    Example: groundup plan llama-1b.toml --set budget.devices=16
    Example: groundup plan llama-7b.toml --layouts
    Example: groundup plan --history
    """
    if history or recipe is None:
        _show_history(recipe, runs, history=history, as_json=as_json)
        return
    from groundup import pipeline
    from groundup.finetune.training_data.input_check import check_missing_inputs
    from groundup.plan import plan_table
    from groundup.plan.checks.stage_support import check_stages
    from groundup.plan.scaling.prediction import ladder_loss_law, predict_loss
    from groundup.plan.scaling.scaling_summary import is_next_token, summarize_scaling
    from groundup.plan.time.restart_estimate import estimate_restarts
    from groundup.recipe import load_recipe
    from groundup.stage_runs import derive_recipe, estimate_run_seconds
    from groundup.stages import recipe_stages

    loaded = load_recipe(recipe, sets or ())
    if calibrate:
        from groundup.cli.plan_calibration import calibrate_recipe

        loaded = calibrate_recipe(loaded, _log)
    if layouts:
        _show_layouts(loaded, as_json=as_json)
        return
    missing = check_missing_inputs(loaded)
    folder = runs / loaded.name
    machine = pipeline.resolve_machine(loaded, PROGRESS_KINDS["none"]())
    derived = pipeline.plan_run(loaded, folder, machine)
    if loaded.machine.device not in ("auto", "cpu"):
        from groundup.interop import resolve_device

        resolve_device(loaded.machine.device)
    deduplication = None
    if loaded.data is not None:
        from groundup.data.dedup_estimate import estimate_dedup, estimate_tokens

        deduplication = estimate_dedup(loaded.data, machine)
        tokens = estimate_tokens(loaded.data, machine) if derived.data_tokens is None else None
        if tokens and (loaded.tokenizer or loaded.base) and loaded.train and loaded.train.token_shards is None:
            derived = replace(derive_recipe(loaded, tokens), data_estimated=True)
    check_stages(derived.recipe)
    summary: dict[str, Any] = derived.summary() | ({"missing": missing} if missing else {})
    if loaded.base is not None:
        from groundup.finetune.finetune_plan import estimate_finetuning
        from groundup.finetune.preference.preference_plan import estimate_preference

        summary["finetuning"] = estimate_finetuning(derived.recipe, machine)
        summary["preference"] = estimate_preference(derived.recipe, machine)
        summary["stages"] = [
            stage.folder
            for stage in recipe_stages(derived.recipe)
            if getattr(derived.recipe, stage.section) is not None
        ]
    if loaded.reinforcement is not None:
        from groundup.finetune.reinforcement.reinforcement_cost import estimate_reinforcement

        summary["reinforcement"] = estimate_reinforcement(derived.recipe, machine)
    if derived.run_time.steps and (warning := estimate_restarts(derived).warning()):
        summary["checkpoint_warning"] = warning
    summary["predicted_loss"] = predict_loss(loaded, derived, folder / LADDER_FOLDER)
    if is_next_token(derived):
        summary["scaling"] = summarize_scaling(derived, ladder_loss_law(loaded, derived, folder / LADDER_FOLDER))
    summary["stage_seconds"] = estimate_run_seconds(derived, machine, (summary.get("finetuning") or {}).get("hours"))
    if summary["stage_seconds"] and (tuning := summary.get("preference")):
        summary["stage_seconds"]["preference"] = 3600 * tuning["hours"]
    if (rewards := summary.get("reinforcement")) and summary["stage_seconds"] is not None:
        summary["stage_seconds"]["reinforcement"] = rewards["hours"] * 3600
    if deduplication is not None:
        summary["deduplication"] = deduplication
    if simulate:
        from groundup.train import simulation

        _log("building one rank on fake devices: about a minute")
        summary["simulation"] = simulation.simulate(derived)
    print(json.dumps(summary, indent=1) if as_json else plan_table.format_plan(summary))
    if pdf is not None:
        from groundup.report.plan_document import write_plan_pdf

        if derived.recipe.train is not None:
            summary["blueprint"] = _blueprint_facts(loaded, derived, machine, summary["stage_seconds"])
        write_plan_pdf(summary, pdf)
        _log(f"wrote {pdf}")


def _blueprint_facts(loaded: Any, derived: Any, machine: Any, stage_seconds: dict[str, float] | None) -> dict[str, Any]:
    """Facts of the blueprint, with the sizes of the files on this machine."""
    from groundup.data.dedup_estimate import estimate_file_bytes
    from groundup.report.blueprint.blueprint_facts import blueprint_facts

    def place(spec: Any) -> str:
        package = f"{spec.package.name} {spec.package.version}, " if spec.package else ""
        return f"{package}{spec.path or spec.url or ''}"

    sources = [
        {"name": spec.name, "kind": spec.kind, "place": place(spec), "bytes": estimate_file_bytes(spec, machine)}
        for spec in (loaded.data.sources if loaded.data else ())
    ]
    tuning = loaded.finetune
    sizes = [estimate_file_bytes(spec, machine) for spec in (*tuning.conversations, *tuning.examples)] if tuning else []
    examples = None if None in sizes or not sizes else sum(size or 0.0 for size in sizes)
    return blueprint_facts(loaded, derived, sources, stage_seconds, conversation_bytes=examples)


def _show_layouts(recipe: Any, *, as_json: bool) -> None:
    from groundup.plan import plan_table
    from groundup.plan.derive import search_recipe_layouts

    search, other = search_recipe_layouts(recipe)
    if as_json:
        rows = [{"knobs": each.knobs(), "seconds": each.seconds, "memory": each.memory.total, "lost": each.lost}
                for each in search.candidates]  # fmt: skip
        print(json.dumps({"tried": search.tried, "refused": search.refused, "layouts": rows}, indent=1))
    else:
        print(plan_table.format_layouts(search, other))


def _show_history(recipe: Path | None, runs: Path, *, history: bool, as_json: bool) -> None:
    from groundup.report.plan_history import format_history, read_history, summarize_errors

    if not history:
        raise UserError(
            "no RECIPE", hint="groundup plan RECIPE plans a recipe, groundup plan --history compares plans with runs"
        )
    if recipe is not None:
        raise UserError(f"--history with {recipe}: it is about all runs in --runs {runs}", hint="leave the recipe out")
    rows = read_history(runs)
    print(json.dumps(summarize_errors(rows), indent=1) if as_json else format_history(rows))


def run(
    recipe: RecipeArgument,
    sets: SetOption = None,
    from_stage: Annotated[
        str | None,
        typer.Option("--from", metavar="STAGE", help=f"Rebuild this stage and all after it. Stages: {STAGE_NAMES}."),
    ] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="STAGE", help="Stop after this stage.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Rebuild complete stages whose recipe changed.")] = False,
    runs: RunsOption = Path("runs"),
) -> None:
    """Run a recipe: build all its stages, in the folder runs/NAME.

    Complete stages are kept, an interrupted stage continues.
    If the recipe changed, the differences are printed; --replace or --from rebuilds the changed stages.

    Example: groundup run quickstart.toml --until base --set train.steps=200
    """
    from groundup import pipeline
    from groundup.artifacts.rank_environment import is_main
    from groundup.recipe import load_recipe
    from groundup.report.quality_checks import check_stage

    main = is_main()
    any_built = False
    metrics: dict[str, Any] = {}
    options = {"from_stage": from_stage, "until_stage": until, "replace_stale": replace}
    with _report_interrupt(), _end_together():
        loaded = load_recipe(recipe, sets or ())
        machine = pipeline.resolve_machine(loaded, PROGRESS_KINDS[loaded.machine.progress if main else "none"]())
        folder = runs / loaded.name
        for stage_run, state in pipeline.run(loaded, folder, machine, **options):
            if not main:
                continue
            manifest = stage_run.manifest()
            assert manifest is not None
            metrics[stage_run.stage.name] = manifest.metrics
            built = state == "built"
            any_built |= built
            text = f"built in {format_duration(manifest.provenance['seconds'])}" if built else "complete"
            _log(f"{stage_run.stage.folder:<14} {text}")
            for warning in check_stage(stage_run.stage.name, metrics) if built else ():
                _log(f"warning: {warning}")
    if any_built:
        from groundup.report.run_summary import summarize_run

        print(summarize_run(folder))
    elif main:
        print(f"{folder}: nothing to do, all stages are complete")


def agent(
    command: Annotated[list[str], typer.Argument(help="A command of groundup, after --.")],
    nnodes: Annotated[int, typer.Option(help="Machines of the job.")],
    nproc_per_node: Annotated[int, typer.Option(help="Ranks on each of them.")],
    rdzv_endpoint: Annotated[str, typer.Option(help="Host and port of the first machine.")],
    rdzv_id: Annotated[str, typer.Option(help="Another for each job.")],
    max_restarts: Annotated[int, typer.Option(help="Restarts after a crash.")] = 0,
) -> None:
    """Run a command on all ranks of this machine, one of several; started by a job file.

    Like torchrun with the same options, but a user error ends the job at once, with exit code 2.
    """
    from groundup.parallel import launch_ranks

    launch_ranks(
        ["-m", "groundup.cli", *command],
        nproc_per_node,
        max_restarts=max_restarts,
        log=_log,
        nnodes=nnodes,
        rdzv_endpoint=rdzv_endpoint,
        rdzv_id=rdzv_id,
    )


def worker(run: RunArgument, stage: Annotated[str, typer.Argument()]) -> None:
    """One rank of a distributed stage; started by `run`."""
    from groundup import pipeline
    from groundup.artifacts.rank_environment import is_main

    with _end_together():
        recipe = pipeline.read_recipe(run)
        progress = PROGRESS_KINDS[recipe.machine.progress if is_main() else "none"]()
        pipeline.run_as_rank(run, stage, pipeline.resolve_machine(recipe, progress))


def launch(
    recipe: RecipeArgument,
    on: Annotated[str, typer.Option(help="slurm, kubernetes or skypilot.")],
    sets: SetOption = None,
    out: Annotated[Path | None, typer.Option(help="File to write; default: the recipe's name.")] = None,
    runs: RunsOption = Path("runs"),
) -> None:
    """Write a job file that runs the recipe on several machines of a cluster.

    Nothing is submitted: read the file, replace each CHANGE in it, and submit it.

    Example: groundup launch llama-7b.toml --on slurm
    """
    from groundup.plan.layout import job_file
    from groundup.recipe import load_recipe
    from groundup.stage_runs import derive_recipe

    if on not in job_file.JOB_FORMATS:
        raise UserError(f"--on {on}: unknown system", hint=f"one of {', '.join(job_file.JOB_FORMATS)}")
    job = job_file.cluster_job(derive_recipe(load_recipe(recipe, sets or ())), recipe, tuple(sets or ()), str(runs))
    out = out or Path(f"{job.name}.{job_file.FILE_SUFFIXES[on]}")
    if out.exists():
        raise UserError(f"{out} exists", hint="choose another name with --out")
    write_atomically(out, job_file.JOB_FORMATS[on](job).encode())
    print(f"wrote {out}: replace each CHANGE in it before you submit it")


def sweep(
    recipe: RecipeArgument,
    sets: SetOption = None,
    until: Annotated[str, typer.Option("--until", metavar="STAGE", help="Last stage to build.")] = "base",
    as_json: JsonOption = False,
    runs: RunsOption = Path("runs"),
) -> None:
    """Build one variant of a recipe per combination of knob values, and compare them.

    Variants are built one after the other; stages that they have in common are built once.

    Example: groundup sweep quickstart.toml --set train.learning_rate=1e-4,3e-4,1e-3
    """
    from groundup import pipeline
    from groundup.experiments.sweep import expand_grid, format_sweep, results_to_json
    from groundup.experiments.variants import build_variants

    recipes = expand_grid(recipe, sets or ())
    first = next(iter(recipes.values()))
    machine = pipeline.resolve_machine(first, PROGRESS_KINDS[first.machine.progress]())
    folder = runs / first.name
    with _report_interrupt():
        results = build_variants(recipes, folder / "sweep", machine, until=until, reuse_from=[folder], log=_log)
    print(results_to_json(results) if as_json else format_sweep(results))
    if all(result.error for result in results):
        raise UserError("every variant failed", hint="the table has the reasons")


def ladder(
    recipe: RecipeArgument,
    sets: SetOption = None,
    sizes: Annotated[int, typer.Option(min=4, help="Number of small models.")] = 5,
    compute_fraction: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Compute of the largest, as a fraction of the recipe's own.")
    ] = 0.1,
    as_json: JsonOption = False,
    runs: RunsOption = Path("runs"),
) -> None:
    """Predict the loss of a recipe from small models: train a ladder of sizes and fit a scaling law.

    `groundup plan` shows the prediction afterwards.

    Example: groundup ladder gpt2-124m.toml --sizes 5 --compute-fraction 0.05
    """
    from groundup import pipeline
    from groundup.experiments.ladder import fit_and_predict, format_ladder, ladder_recipes
    from groundup.experiments.variants import build_variants
    from groundup.recipe import load_recipe

    loaded = load_recipe(recipe, sets or ())
    machine = pipeline.resolve_machine(loaded, PROGRESS_KINDS[loaded.machine.progress]())
    folder = runs / loaded.name
    recipes = ladder_recipes(loaded, sizes, compute_fraction)
    with _report_interrupt():
        results = build_variants(recipes, folder / LADDER_FOLDER, machine, reuse_from=[folder], log=_log)
    fitted = fit_and_predict(loaded, results, folder / LADDER_FOLDER)
    del fitted["scaling_law"]
    print(json.dumps(fitted, indent=1) if as_json else format_ladder(fitted))


@contextmanager
def _report_interrupt() -> Iterator[None]:
    """Print on Ctrl-C that the work can continue; among several ranks the launcher prints it."""
    try:
        yield
    except KeyboardInterrupt:
        from groundup.artifacts.rank_environment import world_size

        if world_size() == 1:
            _log("stopped; the same command continues")
        raise


@contextmanager
def _end_together() -> Iterator[None]:
    """Under a launcher an error of any rank ends all, and only the main rank prints it."""
    from groundup.artifacts.rank_environment import world_size

    if world_size() == 1:
        yield
        return
    from groundup.parallel.rendezvous import propagate_errors

    with propagate_errors():
        yield


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
