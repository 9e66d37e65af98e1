"""Our rules against datatrove's, verdict by verdict, over real text.

datatrove lives in an environment of its own: DATATROVE_PYTHON names its interpreter. DATATROVE_CRAWL names WARC files
(a glob) whose pages are judged; without it, the descriptions of the installed packages and their docstrings are.
"""

import ast
import glob
import json
import os
import subprocess
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest

from groundup.data.clean import c4, fineweb, gopher, repetition
from groundup.data.document import Document
from groundup.data.readers import get_reader
from groundup.data.readers.reader_options import ReaderOptions
from groundup.recipe.data_config import C4Config, FineWebConfig, GopherQualityConfig, GopherRepetitionConfig

PYTHON = os.environ.get("DATATROVE_PYTHON")
THEIRS = """
import json, sys
from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter)
filters = {"gopher_quality": GopherQualityFilter(), "gopher_repetition": GopherRepetitionFilter(),
           "c4": C4QualityFilter(split_paragraph=True), "fineweb": FineWebQualityFilter()}
for line in sys.stdin:
    answers = {}
    for name, judge in filters.items():
        answer = judge.filter(Document(text=json.loads(line), id="x"))
        answers[name] = answer[1] if isinstance(answer, tuple) else None if answer else "dropped"
    print(json.dumps(answers))
"""
LEAST = {"gopher_quality": 0.95, "gopher_repetition": 0.93, "c4": 0.95, "fineweb": 0.97}
"""Share of equal verdicts (kept or dropped) among those that speak of the same; see book/parity-data.md."""

OTHER_RULE = "gopher_below_alpha_threshold"
"""datatrove counts each comma as a word without letters; the paper, and we, count what stands between spaces."""


def texts() -> Iterator[str]:
    if pattern := os.environ.get("DATATROVE_CRAWL"):
        for path in sorted(glob.glob(pattern)):
            with open(path, "rb") as stream:
                found = get_reader("web")(path, stream, ReaderOptions(html_extractor="resiliparse"))
                yield from (read.text for read in found if isinstance(read, Document))
        return
    for package in metadata.distributions():
        yield package.metadata.get_payload() or ""  # type: ignore[misc]
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                yield ast.get_docstring(node) or ""


def ours() -> dict[str, Callable[[str], str | None]]:
    change, judge = c4.c4_line_mapper(C4Config()), c4.c4_filter(C4Config())
    return {
        "gopher_quality": gopher.gopher_quality_filter(GopherQualityConfig()),
        "gopher_repetition": repetition.gopher_repetition_filter(GopherRepetitionConfig()),
        "c4": lambda text: judge(change(text)),
        "fineweb": fineweb.fineweb_filter(FineWebConfig()),
    }


@pytest.mark.interop
@pytest.mark.skipif(PYTHON is None, reason="DATATROVE_PYTHON names no interpreter with datatrove")
@pytest.mark.timeout(1_800)
def test_verdicts_are_datatroves():
    documents = [text for text in texts() if text.strip()][:: int(os.environ.get("DATATROVE_EVERY", "1"))]
    lines = "".join(json.dumps(text) + "\n" for text in documents)
    answer = subprocess.run(
        [PYTHON or "", "-c", THEIRS], input=lines, capture_output=True, text=True, check=True,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )  # fmt: skip
    theirs = [json.loads(line) for line in answer.stdout.splitlines()]
    assert len(theirs) == len(documents)
    shares = {}
    for name, judge in ours().items():
        pairs = [(judge(text), verdicts[name]) for text, verdicts in zip(documents, theirs, strict=True)]
        same = [(mine, its) for mine, its in pairs if its != OTHER_RULE or mine is not None]
        shares[name] = sum((mine is None) == (its is None) for mine, its in same) / len(same)
        apart = Counter((mine, its) for mine, its in pairs if (mine is None) != (its is None))
        dropped = sum(its is not None for _, its in pairs)
        print(
            f"{name}: {len(pairs)} documents, {dropped} dropped by datatrove, {shares[name]:.4f} of {len(same)} agree"
        )
        for (mine, its), count in apart.most_common(5):
            print(f"    {count} x ours {mine or 'kept'}, theirs {its or 'kept'}")
    assert all(shares[name] >= least for name, least in LEAST.items()), shares
