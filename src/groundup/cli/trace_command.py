"""`groundup trace`: where a text stands word for word in the training data of a run."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from groundup.artifacts.errors import UserError
from groundup.artifacts.progress import PROGRESS_KINDS
from groundup.artifacts.sanitize import sanitize_for_stream
from groundup.cli.options import JsonOption, RunArgument
from groundup.recipe.output_config import size_in_bytes

if TYPE_CHECKING:
    from groundup.evaluate.trace import RunTracer, Trace

MAX_LISTED_ITEMS = 20


def trace(
    run: RunArgument,
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="A text, such as an answer of the model.")] = None,
    min_words: Annotated[int, typer.Option(min=1, help="Shortest span to show, in words.")] = 6,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of spans, the longest first.")] = 10,
    documents: Annotated[int, typer.Option(min=1, help="Maximum number of documents of each span.")] = 3,
    count: Annotated[bool, typer.Option("--count", help="Print only how often TEXT as a whole stands there.")] = False,
    task: Annotated[
        Path | None, typer.Option(help="Look for the items of a task file, as of `evaluate --task`, instead of TEXT.")
    ] = None,
    memory: Annotated[
        str, typer.Option(metavar="SIZE", help="Memory to build the index with, at the first use.")
    ] = "2GB",
    as_json: JsonOption = False,
) -> None:
    """Show the longest spans of a text that stand word for word in the training text of a run, and the documents they are in.

    The first use builds an index in the run folder, RUN/trace-index: four bytes a token. Training text is that of
    pretraining; the conversations of fine-tuning are not in it.

    Example: groundup trace runs/quickstart "To be, or not to be, that is the question"

    Example: groundup trace runs/quickstart --task questions.jsonl
    """
    from groundup.evaluate.trace import open_tracer

    limit_bytes = size_in_bytes(memory, "--memory")
    if (text is None) == (task is None):
        raise UserError("expected either a text or --task FILE", hint='groundup trace RUN "some text"')
    if text is not None and not text.strip():
        raise UserError("the text is empty: nothing to trace")
    if count and text is None:
        raise UserError("--count counts a text", hint='groundup trace RUN "some text" --count')
    tracer = open_tracer(run, memory=limit_bytes, progress=PROGRESS_KINDS["auto"]())
    if task is not None:
        _trace_items(tracer, task, as_json)
    elif count:
        found = tracer.count(text or "")
        print(json.dumps({"text": text, "count": found}) if as_json else f"{found:,}")
    else:
        result = tracer.trace(text or "", min_words=min_words, max_spans=limit, max_documents=documents)
        for line in [json.dumps(result.as_json(), indent=1)] if as_json else describe_trace(result):
            print(sanitize_for_stream(line, sys.stdout))


def describe_trace(trace: "Trace") -> Iterator[str]:
    """Lines of text for a person."""
    yield (
        f"{trace.coverage:.0%} of the text stands in spans of {trace.min_words} words or more of the training text "
        f"({trace.corpus_tokens:,} tokens)"
    )
    for span in trace.spans:
        places = f"{span.count:,} times" if span.count > 1 else "once"
        files = f" in {span.num_documents:,} documents" if span.num_documents > 1 else ""
        yield f"\n{span.words} words, {places}{files}: “{_one_line(span.text)}”"
        for document in span.documents:
            yield "  " + " · ".join(filter(None, (document.source, document.id, document.license)))
            yield f"    …{_one_line(document.before)}[{_one_line(document.span)}]{_one_line(document.after)}…"


def _one_line(text: str) -> str:
    return text.replace("\r", "").replace("\n", "⏎")


def _trace_items(tracer: "RunTracer", task: Path, as_json: bool) -> None:
    from groundup.data.task_files import item_texts

    overlaps = tracer.overlaps(item_texts(task), PROGRESS_KINDS["auto"]())
    overlaps.sort(key=lambda overlap: -overlap.fraction)
    dirty = [overlap for overlap in overlaps if overlap.is_dirty]
    if as_json:
        rows = [{"item": each.item, "fraction": each.fraction, "longest": each.longest} for each in overlaps]
        print(json.dumps({"items": len(overlaps), "dirty": len(dirty), "overlaps": rows}, indent=1))
        return
    print(
        f"{len(dirty):,} of {len(overlaps):,} items stand in the training text by 80% or more, "
        f"{sum(overlap.fraction > 0 for overlap in overlaps):,} in part (in spans of 8 words or more)"
    )
    for overlap in overlaps[:MAX_LISTED_ITEMS]:
        if overlap.fraction > 0:
            line = f"{overlap.fraction:4.0%}  {overlap.item}: “{_one_line(overlap.longest)}”"
            print(sanitize_for_stream(line, sys.stdout))
