"""Commands that show a run or a knob and change nothing: status, watch, inspect, verify, diff, report, explain, models."""

import itertools
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from groundup.artifacts.differences import list_differences
from groundup.artifacts.errors import UserError
from groundup.artifacts.manifest import Manifest
from groundup.artifacts.progress import PROGRESS_KINDS, format_duration
from groundup.cli.compare_command import compare as compare
from groundup.cli.options import JsonOption, RunArgument, SetOption
from groundup.cli.trace_command import trace as trace
from groundup.stages import ITEM_SCORES_FILE, STAGE_FOLDERS

NEXT_STEPS = {
    "stale": "built by another recipe or version; groundup run RECIPE prints the differences, --replace rebuilds it",
    "interrupted": "groundup run RECIPE continues it",
}
"""By state of a stage."""


def status(run: RunArgument, as_json: JsonOption = False) -> None:
    """Show the state of each stage of a run: complete, stale, interrupted or missing; size and time.

    Example: groundup status runs/quickstart
    """
    from groundup import pipeline

    recipe = pipeline.read_recipe(run)
    machine = pipeline.resolve_machine(recipe, PROGRESS_KINDS["none"]())
    rows = []
    planned = pipeline.plan_run(recipe, run, machine).recipe
    for stage_run in pipeline.resolve_stage_runs(planned, run, machine):
        manifest = stage_run.manifest()
        size = sum(file["bytes"] for file in manifest.files.values()) if manifest else None
        seconds = manifest.provenance.get("seconds") if manifest else None
        rows.append({"stage": stage_run.stage.folder, "state": stage_run.state(), "bytes": size, "seconds": seconds})
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        size = "" if row["bytes"] is None else f"{row['bytes'] / 1e6:9.1f} MB"
        print(
            f"{row['stage']:<14} {row['state']:<12} {size:>12} "
            f"{'' if row['seconds'] is None else format_duration(row['seconds']):>9}"
        )
    for state in dict.fromkeys(row["state"] for row in rows):
        if state in NEXT_STEPS:
            print(f"{state}: {NEXT_STEPS[state]}", file=sys.stderr)


def verify(run: RunArgument) -> None:
    """Check the files of a run against the SHA-256 hashes in its manifests.

    The manifests, recipe.json and plan.json are checked against the run's record, run.json.

    Example: groundup verify runs/quickstart
    """
    from groundup import pipeline
    from groundup.artifacts.manifest import MANIFEST_FILE
    from groundup.artifacts.run_record import verify_run

    pipeline.check_run_folder(run)
    folders = [run / stage.folder for stage in pipeline.STAGES if (run / stage.folder / MANIFEST_FILE).is_file()]
    problems = verify_run(run, folders)
    for line in problems:
        print(line)
    if problems:
        raise UserError(
            f"{run}: {len(problems)} difference(s)", hint="groundup run RECIPE --from STAGE rebuilds a stage"
        )
    print(f"{run}: {len(folders)} complete stages, all files unchanged")


def diff(
    run: RunArgument,
    other: Annotated[Path, typer.Argument(metavar="OTHER", help="Another run, or a recipe file.")],
    sets: SetOption = None,
) -> None:
    """Show the differences between two runs, or a run and a recipe: knobs, derived values, scores paired by item.

    Example: groundup diff runs/quickstart quickstart.toml --set train.steps=200
    """
    from groundup import pipeline
    from groundup.recipe import load_recipe
    from groundup.stage_runs import derive_recipe

    recipes = (
        pipeline.read_recipe(run),
        pipeline.read_recipe(other) if other.is_dir() else load_recipe(other, sets or ()),
    )
    old, new = (derive_recipe(recipe).recipe.model_dump(mode="json", exclude={"machine"}) for recipe in recipes)
    lines = list_differences(old, new)
    if other.is_dir():
        lines += _score_differences(run, other)
    print("\n".join(lines) if lines else f"{run} and {other}: no differences")


def watch(
    run: RunArgument,
    stage: Annotated[
        str | None,
        typer.Option(metavar="STAGE", help="base, chat, preference or reinforcement; default: the running one."),
    ] = None,
    page: Annotated[bool, typer.Option("--page", help="Serve a web page instead of drawing in the terminal.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0: any free port.")] = 8001,
) -> None:
    """Show the training curves of a run, live: losses, rewards, held-out scores, learning rate, speed, memory.

    Example: groundup watch runs/quickstart
    """
    from groundup.viewers.run_reader import RunReader

    reader = RunReader(run, stage)
    reader.refresh()
    if page:
        from groundup.viewers.dashboard_server import serve_dashboard

        serve_dashboard(reader, port)
    else:
        from groundup.viewers import terminal_dashboard

        terminal_dashboard.show_dashboard(reader)


def report(
    run: RunArgument, pdf: Annotated[Path | None, typer.Option(help="PDF to write; default: RUN/report.pdf.")] = None
) -> None:
    """Write the report of a run as PDF and HTML, from its manifests; the run may be unfinished.

    Example: groundup report runs/quickstart
    """
    from groundup import pipeline
    from groundup.report import write_report

    pipeline.read_recipe(run)
    print(write_report(run, pdf or run / "report.pdf"))


def inspect(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, its 01-data, or a folder of documents.")],
    show: Annotated[
        str | None,
        typer.Option(help="kept, dropped, changed, duplicates or contaminated; default: all; in the pager: kept."),
    ] = None,
    source: Annotated[str | None, typer.Option(help="Only documents of this source.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only documents that this rule dropped or changed.")] = None,
    search: Annotated[str | None, typer.Option(help="Only documents that contain this text.")] = None,
    split: Annotated[str | None, typer.Option(help="train or validation.")] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed: show kept documents in random order.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="Maximum number of each kind; 0: no limit. Not in the pager.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Page through the documents that a run kept, dropped and changed, with the rules that did it.

    Example: groundup inspect runs/quickstart --show dropped --reason language
    """
    from groundup.viewers import corpus_browser

    if show is None and reason is not None:
        show = "dropped"
    for name, value, choices in (
        ("--show", show, corpus_browser.ENTRY_KINDS),
        ("--split", split, corpus_browser.SPLITS),
    ):
        if value is not None and value not in choices:
            raise UserError(f"{name} {value}: unknown", hint=f"one of {', '.join(choices)}")
    corpus = corpus_browser.Corpus.open(run)
    known = corpus.sources()
    if source is not None and known and source not in known:
        raise UserError(f"--source {source}: no such source", hint=f"one of {', '.join(known)}")
    filters = corpus_browser.EntryFilters(source=source, reason=reason, split=split, search=search, seed=seed)
    kinds = [show] if show else corpus_browser.ENTRY_KINDS
    if as_json:
        for kind in kinds:
            for entry in itertools.islice(corpus.entries(kind, filters), limit or None):
                print(json.dumps(entry.as_json()))
    elif sys.stdin.isatty() and sys.stdout.isatty():
        from groundup.viewers.corpus_pager import run_pager

        run_pager(corpus, kinds[0], filters)
    else:
        from rich.console import Console

        from groundup.viewers.corpus_render import print_entries

        print_entries(corpus, kinds, filters, limit, Console(highlight=False))


def explain(
    knob: Annotated[
        str | None, typer.Argument(metavar="KNOB", help="For example train.steps; default: all knobs.")
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of recipes, for editors.")] = False,
) -> None:
    """Explain a knob of the recipe: meaning, possible values, default.

    Example: groundup explain train.learning_rate
    """

    from groundup.recipe.explain import explain_knob, json_schema, knob_table

    if schema:
        print(json.dumps(json_schema(), indent=1))
    elif knob:
        print(explain_knob(knob))
    else:
        for name, takes, default, meaning in knob_table():
            print(f"{name:<38} {meaning} [{takes}; default {default}]")


def models(as_json: JsonOption = False) -> None:
    """List the model families: what each can be trained, fine-tuned, quantized, served and exported as.

    Example: groundup models
    """
    from groundup.interop.family_table import family_rows, format_rows

    rows = family_rows()
    print(json.dumps(rows, indent=1) if as_json else format_rows(rows))


def _score_differences(run: Path, other: Path) -> list[str]:
    """Differences of the scores: paired by item where both runs stored those, else the metrics that differ."""
    if all((path / STAGE_FOLDERS["scores"] / ITEM_SCORES_FILE).is_file() for path in (run, other)):
        from groundup.cli.compare_command import comparison_lines
        from groundup.evaluate.comparison import compare_entries
        from groundup.evaluate.comparison.stored_scores import stored_scores

        names = [str(path) for path in (run, other)]
        with suppress(UserError):  # nothing in common
            found = compare_entries({name: [stored_scores(Path(name))] for name in names})
            return [line for comparison in found for line in comparison_lines(comparison, {})]
    return list_differences(_evaluation_metrics(run), _evaluation_metrics(other))


def _evaluation_metrics(run: Path) -> dict[str, Any]:
    manifest = Manifest.read(run / STAGE_FOLDERS["scores"])
    return {"scores": manifest.metrics} if manifest else {}
