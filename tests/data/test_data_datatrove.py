"""Parity with datatrove: decisions of the filters on real text.

datatrove runs in its own environment, with the interpreter $DATATROVE_PYTHON. $DATATROVE_CRAWL names WARC files (a glob)
to filter; without it, descriptions of the installed packages and docstrings are used.
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
DATATROVE_PROGRAM = """
import json, sys
from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter)
filters = {"gopher_quality": GopherQualityFilter(), "gopher_repetition": GopherRepetitionFilter(),
           "c4": C4QualityFilter(split_paragraph=True), "fineweb": FineWebQualityFilter()}
for line in sys.stdin:
    answers = {}
    for name, filter_ in filters.items():
        answer = filter_.filter(Document(text=json.loads(line), id="x"))
        answers[name] = answer[1] if isinstance(answer, tuple) else None if answer else "dropped"
    print(json.dumps(answers))
"""
MIN_AGREEMENT = {"gopher_quality": 0.95, "gopher_repetition": 0.93, "c4": 0.95, "fineweb": 0.97}
"""Minimum fraction of equal decisions (kept or dropped) of corresponding rules; see book/parity-data.md."""

OTHER_RULE = "gopher_below_alpha_threshold"
"""datatrove counts each comma as a word without letters; the paper counts words between spaces."""


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


def groundup_filters() -> dict[str, Callable[[str], str | None]]:
    change, drop_reason = c4.c4_line_mapper(C4Config()), c4.c4_filter(C4Config())
    return {
        "gopher_quality": gopher.gopher_quality_filter(GopherQualityConfig()),
        "gopher_repetition": repetition.gopher_repetition_filter(GopherRepetitionConfig()),
        "c4": lambda text: drop_reason(change(text)),
        "fineweb": fineweb.fineweb_filter(FineWebConfig()),
    }


@pytest.mark.interop
@pytest.mark.skipif(PYTHON is None, reason="DATATROVE_PYTHON names no interpreter with datatrove")
@pytest.mark.timeout(1_800)
def test_decisions_match_datatrove():
    documents = [text for text in texts() if text.strip()][:: int(os.environ.get("DATATROVE_EVERY", "1"))]
    lines = "".join(json.dumps(text) + "\n" for text in documents)
    answer = subprocess.run(
        [PYTHON or "", "-c", DATATROVE_PROGRAM], input=lines, capture_output=True, text=True, check=True,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )  # fmt: skip
    expected = [json.loads(line) for line in answer.stdout.splitlines()]
    assert len(expected) == len(documents)
    agreement = {}
    for name, drop_reason in groundup_filters().items():
        pairs = [(drop_reason(text), decisions[name]) for text, decisions in zip(documents, expected, strict=True)]
        same = [(actual, peer) for actual, peer in pairs if peer != OTHER_RULE or actual is not None]
        agreement[name] = sum((actual is None) == (peer is None) for actual, peer in same) / len(same)
        differences = Counter((actual, peer) for actual, peer in pairs if (actual is None) != (peer is None))
        dropped = sum(peer is not None for _, peer in pairs)
        print(
            f"{name}: {len(pairs)} documents, {dropped} dropped by datatrove, {agreement[name]:.4f} of {len(same)} agree"
        )
        for (actual, peer), count in differences.most_common(5):
            print(f"    {count} x groundup {actual or 'kept'}, datatrove {peer or 'kept'}")
    assert all(agreement[name] >= minimum for name, minimum in MIN_AGREEMENT.items()), agreement
