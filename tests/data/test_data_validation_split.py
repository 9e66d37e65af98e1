"""Held-out text: exists for a corpus of any size, is spread over its sources, and is not trained on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.data.stage import run
from groundup.data.validation_split import MIN_DOCUMENTS, plan_source_splits, split_paragraphs

Recipe = Callable[..., Any]
Prose = Callable[..., str]


def rows(out: Path, split: str) -> list[dict[str, str]]:
    return [
        row for path in sorted((out / split).glob("*.parquet")) for row in pyarrow.parquet.read_table(path).to_pylist()
    ]


def build(recipe: Recipe, folder: Path, machine: Machine, **knobs: Any) -> tuple[dict[str, Any], Path]:
    out = folder.parent / "out"
    out.mkdir()
    view = recipe(sources=[{"name": "main", "kind": "text", "path": str(folder)}], **knobs)
    return run(view, {}, out, machine), out


@pytest.mark.parametrize("documents", [1, 3, 48])
def test_few_documents_are_split_into_spans(
    documents: int, tmp_path: Path, recipe: Recipe, machine: Machine, prose: Prose
):
    texts = tmp_path / "texts"
    texts.mkdir()
    paragraphs = [[prose(100 * number + seed, 45) for seed in range(192 // documents)] for number in range(documents)]
    for number, document in enumerate(paragraphs):
        (texts / f"{number}.txt").write_text("\n\n".join(document))
    metrics, out = build(recipe, texts, machine)
    train, validation = (rows(out, split) for split in ("train", "validation"))
    held_out = [part for row in validation for part in row["text"].split("\n\n") if part]
    trained = [part for row in train for part in row["text"].split("\n\n") if part]
    everything = [paragraph for document in paragraphs for paragraph in document]
    assert sorted(held_out + trained) == sorted(everything)  # whole paragraphs, each once
    size = sum(map(len, everything))
    assert 0.07 * size < sum(map(len, held_out)) < 0.13 * size
    assert len(validation) >= MIN_DOCUMENTS - 4
    numbers = sorted(int(row["id"].partition(".")[0]) for row in validation)
    assert len(set(numbers)) >= min(documents, 12)  # from everywhere
    assert metrics["sources"]["main"]["split"]["span_bytes"]


def test_training_paragraphs_that_repeat_validation_text_are_removed(
    tmp_path: Path, recipe: Recipe, machine: Machine, prose: Prose
):
    texts = tmp_path / "texts"
    texts.mkdir()
    header = prose(1, 60)
    (texts / "a.txt").write_text("\n\n".join(f"{header}\n\n{prose(seed, 60)}" for seed in range(2, 80)))
    _, out = build(recipe, texts, machine, gopher_repetition={"kinds": []})
    held_out, trained = ("\n\n".join(row["text"] for row in rows(out, split)) for split in ("validation", "train"))
    assert header in held_out
    assert header not in trained


def test_many_documents_are_held_out_whole():
    splits = plan_source_splits(0.01, {"a": 5_000, "b": 300}, {"a": 50_000_000, "b": 2_000_000})
    assert splits["a"].span_bytes is None
    assert splits["b"].span_bytes == 1_000


def test_a_small_corpus_holds_out_more_but_no_more_than_a_tenth():
    assert plan_source_splits(0.01, {"a": 40}, {"a": 2_000_000})["a"].fraction == 0.05
    assert plan_source_splits(0.01, {"a": 40}, {"a": 154_000})["a"].fraction == 0.1
    assert plan_source_splits(0.3, {"a": 40}, {"a": 154_000})["a"].fraction == 0.3
    assert plan_source_splits(0.0, {"a": 40}, {"a": 154_000})["a"].fraction == 0


@pytest.mark.parametrize("size", [1_000, 2_400, 5_000, 12_000, 30_000])
@pytest.mark.parametrize("paragraph_bytes", [60, 400, 1_900])
@pytest.mark.parametrize("large", [200_000, 20_000_000])
def test_every_source_that_is_large_enough_has_held_out_text(size: int, paragraph_bytes: int, large: int):
    split = plan_source_splits(0.01, {"a": 40, "tiny": 3}, {"a": large, "tiny": size})["tiny"]
    paragraph = "word " * (paragraph_bytes // 5) + "\n\n"
    text = (paragraph * (size // len(paragraph) + 1))[:size]
    held_out = sum(len("".join(parts)) for part, parts in split.segments(text, 0) if part == "validation")
    assert 0 < held_out <= 0.5 * size


@pytest.mark.parametrize("text", ["", "no boundary" * 300, "文" * 3000, "One. Two! Three?\nfour\n\n\nfive  \n\n" * 99])
def test_paragraphs_join_to_the_text(text: str):
    pieces = split_paragraphs(text, 600)
    assert "".join(pieces) == text
    assert all(len(piece.encode()) <= 600 for piece in pieces)


def test_too_little_text_is_told_by_the_data_stage(tmp_path: Path, recipe: Recipe, machine: Machine, prose: Prose):
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text(prose(1, 52))
    with pytest.raises(UserError, match="none is left for validation"):
        build(recipe, texts, machine)
