"""Commands that only look: at a run, its files, its differences, its story, and at the knobs."""

import itertools
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from groundup.artifacts.errors import UserError
from groundup.artifacts.manifest import Manifest
from groundup.artifacts.progress import PROGRESS_KINDS, format_duration
from groundup.cli.options import JsonOption, RunArgument, SetOption
from groundup.stages import STAGE_FOLDERS

NEXT_STEPS = {
    "stale": "made by another recipe or version; groundup run RECIPE says what changed, and with --replace builds again",
    "interrupted": "groundup run RECIPE continues it",
}
"""What one does about a stage in such a state."""


def status(run: RunArgument, as_json: JsonOption = False) -> None:
    """Which stages of a run are complete, stale, interrupted or missing."""
    from groundup import pipeline
    from groundup.plan import derive

    recipe = pipeline.read_recipe(run)
    machine = pipeline.resolve_machine(recipe, PROGRESS_KINDS["none"]())
    rows = []
    for job in pipeline.resolve_stage_runs(derive(recipe).recipe, run, machine):
        manifest = job.manifest()
        size = sum(file["bytes"] for file in manifest.files.values()) if manifest else None
        seconds = manifest.provenance.get("seconds") if manifest else None
        rows.append({"stage": job.stage.folder, "state": job.state(), "bytes": size, "seconds": seconds})
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
    """Hash every file of a run's finished stages again, and compare with the manifests."""
    from groundup import pipeline
    from groundup.artifacts.manifest import verify_folder as verify_folder

    pipeline.read_recipe(run)
    folders = [
        run / stage.folder for stage in pipeline.STAGES if Manifest.read(run / stage.folder) is not None
    ]
    problems = [line for folder in folders for line in verify_folder(folder)]
    for line in problems:
        print(line)
    if problems:
        raise UserError(
            f"{run}: {len(problems)} file(s) differ",
            hint="groundup run RECIPE --from STAGE builds a stage again",
        )
    print(f"{run}: {len(folders)} finished stages, every file as it was written")


def diff(
    run: RunArgument,
    other: Annotated[Path, typer.Argument(metavar="OTHER", help="Another run, or a recipe file.")],
    sets: SetOption = None,
) -> None:
    """How two runs, or a run and a recipe, differ: knobs, derived values and scores."""
    from groundup import pipeline
    from groundup.plan import derive
    from groundup.recipe import load_recipe

    mine = pipeline.read_recipe(run)
    theirs = pipeline.read_recipe(other) if other.is_dir() else load_recipe(other, sets or ())
    one, two = (
        derive(recipe).recipe.model_dump(mode="json", exclude={"machine"}) for recipe in (mine, theirs)
    )
    lines = pipeline.list_differences(one, two)
    if other.is_dir():
        lines += pipeline.list_differences(_evaluation_metrics(run), _evaluation_metrics(other))
    print("\n".join(lines) if lines else f"{run} and {other}: no difference")


def watch(
    run: RunArgument,
    stage: Annotated[
        str | None, typer.Option(help="base or chat; default: the one that is going on.")
    ] = None,
    page: Annotated[bool, typer.Option("--page", help="Serve a live page instead of drawing here.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0 takes a free one.")] = 8001,
) -> None:
    """The curves of a training while it goes on, and afterwards: loss, held-out text, learning rate, speed, memory."""
    from groundup.viewers.run_reader import RunReader

    journals = RunReader(run, stage)
    journals.refresh()
    if page:
        from groundup.viewers.dashboard_server import serve_dashboard

        serve_dashboard(journals, port)
    else:
        from groundup.viewers import terminal_dashboard

        terminal_dashboard.show_dashboard(journals)


def report(
    run: RunArgument,
    pdf: Annotated[
        Path | None, typer.Option(help="Where to put the PDF; default: report.pdf in the run.")
    ] = None,
) -> None:
    """Write the report of a run from what its manifests say, finished or not."""
    from groundup import pipeline
    from groundup.report import write_report

    pipeline.read_recipe(run)
    print(write_report(run, pdf or run / "report.pdf"))


def inspect(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run, its 01-data, or a folder of documents.")],
    show: Annotated[
        str | None,
        typer.Option(
            help="kept, dropped, changed, duplicates or contaminated; default: the first that fits."
        ),
    ] = None,
    source: Annotated[str | None, typer.Option(help="Only this source.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only what fell or was changed by this rule.")] = None,
    search: Annotated[str | None, typer.Option(help="Only what holds this text.")] = None,
    split: Annotated[str | None, typer.Option(help="train or validation.")] = None,
    seed: Annotated[int | None, typer.Option(help="Draw kept documents in this random order.")] = None,
    limit: Annotated[
        int, typer.Option(min=0, help="At most so many of each kind; 0: all. Not in the pager.")
    ] = 20,
    as_json: JsonOption = False,
) -> None:
    """Page through the documents that a run kept and dropped, with the reasons."""
    from groundup.viewers import corpus_browser

    if show is None and reason is not None:
        show = "dropped"
    for name, value, choices in (
        ("--show", show, corpus_browser.ENTRY_KINDS),
        ("--split", split, corpus_browser.SPLITS),
    ):
        if value is not None and value not in choices:
            raise UserError(f"{name} {value}: no such thing", hint=f"one of {', '.join(choices)}")
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
    knob: Annotated[str | None, typer.Argument(help="A knob such as train.steps; none: all of them.")] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the recipe's JSON schema, for editors.")
    ] = False,
) -> None:
    """What a knob means, what it takes and its default."""
    from groundup.recipe.explain import explain_knob, json_schema, knob_table

    if schema:
        print(json.dumps(json_schema(), indent=1))
    elif knob:
        print(explain_knob(knob))
    else:
        for name, takes, default, meaning in knob_table():
            print(f"{name:<38} {meaning} [{takes}; default {default}]")


def _evaluation_metrics(run: Path) -> dict[str, Any]:
    manifest = Manifest.read(run / STAGE_FOLDERS["scores"])
    return {"scores": manifest.metrics} if manifest else {}
