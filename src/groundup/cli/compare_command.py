"""`groundup compare`: models on the same items, with what could have been seen."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from groundup.artifacts.errors import UserError
from groundup.artifacts.progress import PROGRESS_KINDS
from groundup.cli.model_check import open_for_writing
from groundup.cli.options import DeviceOption, DtypeOption, JsonOption, MaxTokensOption, TemperatureOption, VerifyOption
from groundup.cli.text_input import read_text, read_texts

if TYPE_CHECKING:
    from groundup.evaluate.comparison import ItemScore, MeasureComparison

RATINGS_HINT = "groundup compare --ratings FILE alone, or models to compare"


def compare(
    entries: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=]MODEL[,MODEL]...",
            help="Runs or models; several of one entry, separated by commas, are seeds of one recipe.",
        ),
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="Score this text with every model, instead of the stored scores of runs.")
    ] = None,
    task: Annotated[Path | None, typer.Option(help="Score this task file, as of `evaluate --task`, likewise.")] = None,
    tasks: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="Score these tasks of lm-evaluation-harness, likewise.")
    ] = None,
    datasets: Annotated[
        Path | None, typer.Option(help="Folder of the datasets of --tasks; default: the Hugging Face hub.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="First questions of each task of --tasks only.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a picture of the scores and differences (SVG).")] = None,
    page: Annotated[
        Path | None, typer.Option(help="Write a page for blind side-by-side rating of answers (HTML).")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Prompts of --page, one a line; default: those whose answers the runs stored.")
    ] = None,
    ratings: Annotated[Path | None, typer.Option(help="Summarize ratings that the page saved.")] = None,
    max_tokens: MaxTokensOption = 200,
    temperature: TemperatureOption = 0.7,
    seed: Annotated[int, typer.Option(help="Random seed of answers and of their order on the page.")] = 0,
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    verify: VerifyOption = True,
) -> None:
    """Compare models on the same items: scores, and each one's difference from the first, paired by item.

    Beside each difference: its 95% interval, and the smallest difference that these items would show four times of five.
    Runs are compared by the scores that they stored; --text, --task and --tasks score any models.

    Example: groundup compare runs/small runs/large --plot comparison.svg

    Example: groundup compare base=runs/a1,runs/a2,runs/a3 wide=runs/b1,runs/b2,runs/b3

    Example: groundup compare runs/small models/smollm2 --text held-out.txt

    Example: groundup compare models/smollm2 models/smollm3 --tasks arc_easy,piqa --limit 200
    """
    if ratings is not None:
        if entries:
            raise UserError("--ratings with models", hint=RATINGS_HINT)
        _print_ratings(ratings, as_json)
        return
    named = parse_entries(entries or [])
    if prompts is not None and page is None:
        raise UserError("--prompts are for --page", hint="--page FILE.html")
    for path, suffix in ((plot, ".svg"), (page, ".html")):
        if path is not None and path.suffix != suffix:
            raise UserError(f"{path}, expected a name that ends with {suffix}")
    if tasks is None and (datasets, limit) != (None, None):
        raise UserError("--datasets and --limit are for --tasks", hint="--tasks NAME,...")
    names = [name.strip() for name in (tasks or "").split(",") if name.strip()]
    if names:
        from groundup.evaluate.harness_tasks import harness_tasks

        harness_tasks(names)  # a wrong name is told before a model is read
    if page is not None and prompts is None and text is None and task is None and not names:
        answers = _stored_answers(named)
    else:
        answers = {}
    scores, answered = _score(
        named, text, task, (names, datasets, limit), prompts, max_tokens, temperature, seed, (device, dtype, verify)
    )  # fmt: skip
    if page is not None:
        _write_page(page, answers or answered, seed)
    if not scores:
        return
    from groundup.evaluate.comparison import compare_entries

    comparisons = compare_entries(scores)
    if plot is not None:
        from groundup.report.comparison_plot import plot_comparison

        plot.write_text(plot_comparison(comparisons), encoding="utf-8")
        print(f"{plot}: written", file=sys.stderr)
    flags = _contamination(named, comparisons)
    if as_json:
        print(json.dumps([each.as_json() | {"contamination": flags[each.task]} for each in comparisons], indent=1))
        return
    for comparison in comparisons:
        print("\n".join(comparison_lines(comparison, flags[comparison.task])), end="\n\n")


def parse_entries(arguments: Sequence[str]) -> dict[str, list[Path]]:
    """Name -> models. Raises UserError for fewer than two entries, a missing file and a name that is used twice.

    >>> parse_entries(["runs/a", "wide=runs/b1,runs/b2"])
    {'a': [PosixPath('runs/a')], 'wide': [PosixPath('runs/b1'), PosixPath('runs/b2')]}
    """
    named: dict[str, list[Path]] = {}
    for argument in arguments:
        name, _, places = argument.rpartition("=")
        paths = [Path(place) for place in places.split(",") if place]
        name = name or (paths[0].resolve().name if paths else "")
        if not paths or name in named:
            raise UserError(f"{argument}: the name {name!r} is used twice" if paths else f"{argument}: names no model",
                            hint="NAME=MODEL gives an entry another name")  # fmt: skip
        named[name] = paths
    if len(named) < 2:
        raise UserError(f"{len(named)} to compare, expected at least two", hint="groundup compare runs/a runs/b")
    return named


def comparison_lines(comparison: "MeasureComparison", flags: Mapping[str, str]) -> Iterator[str]:
    """A table of one measure."""
    better = "lower is better" if comparison.lower_is_better else "higher is better"
    unpaired = (
        f"; {comparison.unpaired:,} items are not in all and left out (--text or --task scores the same ones)"
        if comparison.unpaired
        else ""
    )
    yield f"{comparison.task}, {comparison.metric} ({better}), {comparison.items:,} items{unpaired}"
    width = max(len(entry.name) for entry in comparison.entries)
    for entry in comparison.entries:
        seeds = f", {len(entry.seed_scores)} seeds" if len(entry.seed_scores) > 1 else ""
        line = f"  {entry.name:<{width}}  {entry.score:.4f}{_bounds(entry.interval)}{seeds}"
        if (found := entry.difference) is not None:
            line += f"  difference {found.difference:+.4f}{_bounds(found.interval, '+')}"
            if found.smallest_visible is not None:
                line += f", smallest visible {found.smallest_visible:.4f}"
            good = (found.difference < 0) == comparison.lower_is_better
            line += ": " + (("better" if good else "worse") if found.is_visible else "no difference seen")
            if not found.covers_seeds:
                line += " (of these models; other seeds may differ)"
        if flag := flags.get(entry.name):
            line += f"  [contamination: {flag}]"
        yield line


def _bounds(interval: Sequence[float] | None, sign: str = "") -> str:
    return f" ({interval[0]:{sign}.4f} to {interval[1]:{sign}.4f})" if interval else ""


def _score(
    named: Mapping[str, Sequence[Path]], text: Path | None, task: Path | None,
    harness: tuple[Sequence[str], Path | None, int | None], prompts: Path | None, max_tokens: int,
    temperature: float, seed: int, how: tuple[str, str, bool],
) -> tuple[dict[str, list[list["ItemScore"]]], dict[str, dict[str, str]]]:  # fmt: skip
    """Item scores by entry and seed, and answers of the first seed of each entry to the prompts."""
    from groundup.evaluate.comparison.stored_scores import stored_scores

    content = None if text is None else read_text(text)
    asked = None if prompts is None else [entry.text for entry in read_texts(prompts)]
    names, datasets, limit = harness
    if content is None and task is None and asked is None and not names:
        return {name: [stored_scores(path) for path in paths] for name, paths in named.items()}, {}
    from groundup.data.task_files import task_of_file
    from groundup.evaluate.comparison.measured_scores import measure_harness, measure_task, measure_text
    from groundup.evaluate.comparison.rating_pairs import answer_prompts
    from groundup.model import Decoder

    questions = None if task is None else task_of_file(task)
    scores: dict[str, list[list[ItemScore]]] = {}
    answers: dict[str, dict[str, str]] = {}
    for name, paths in named.items():
        for number, path in enumerate(paths):
            model, tokenizer = open_for_writing(path, *how)
            if not isinstance(model, Decoder):
                raise UserError(f"{path}: no decoder, which --text, --task, --tasks and --prompts need")
            rows: list[Any] = []
            if content is not None and text is not None:
                rows += measure_text(model, tokenizer, content, text.name)
            if questions is not None:
                rows += measure_task(model, tokenizer, questions)
            if names:
                rows += measure_harness(model, tokenizer, names, PROGRESS_KINDS["auto"](), datasets, limit)
            if rows:
                scores.setdefault(name, []).append(rows)
            if asked is not None and number == 0:
                answers[name] = answer_prompts(
                    model, tokenizer, asked, max_tokens=max_tokens, temperature=temperature, seed=seed
                )
            print(f"{path}: done", file=sys.stderr)
    return scores, answers


def _stored_answers(named: Mapping[str, Sequence[Path]]) -> dict[str, dict[str, str]]:
    from groundup.evaluate.comparison.rating_pairs import stored_answers

    return {name: stored_answers(paths[0]) for name, paths in named.items()}


def _write_page(page: Path, answers: Mapping[str, Mapping[str, str]], seed: int) -> None:
    from groundup.evaluate.comparison.rating_pairs import CHOICES, make_pairs
    from groundup.report.rating_page import rating_page

    pairs = make_pairs(answers, seed)
    page.write_text(rating_page(list(map(asdict, pairs)), list(CHOICES)), encoding="utf-8")
    print(f"{page}: {len(pairs)} pair{'' if len(pairs) == 1 else 's'} to rate", file=sys.stderr)


def _contamination(
    named: Mapping[str, Sequence[Path]], comparisons: Sequence["MeasureComparison"]
) -> dict[str, dict[str, str]]:
    """By task and entry: what the data stage of the entry's run found; what is made of the run's held-out text has no flag."""
    from groundup.artifacts.contamination_flags import NOT_CHECKED, OF_HELD_OUT_TEXT, contamination_flags
    from groundup.stages import STAGE_FOLDERS

    tasks = {comparison.task for comparison in comparisons}
    flags = {name: contamination_flags(paths[0] / STAGE_FOLDERS["data"]) for name, paths in named.items()}
    return {
        task: {} if task in OF_HELD_OUT_TEXT else {name: flags[name].get(task, NOT_CHECKED) for name in named}
        for task in tasks
    }


def _print_ratings(path: Path, as_json: bool) -> None:
    from groundup.evaluate.comparison.rating_pairs import summarize_ratings

    rows = summarize_ratings(path)
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        low, high = row["interval"]
        print(
            f"{row['entry']} wins {row['wins']:.0%} ({low:.0%} to {high:.0%}) of {row['ratings']:,} ratings against "
            f"{row['other']} (ties half)"
        )
