"""The functions of groundup.data on texts in memory."""

import doctest
import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

import groundup.data
from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.artifacts.progress import Progress, ProgressTask
from groundup.data import (
    clean_texts,
    deduplicate,
    detect_language,
    extract_text,
    find_duplicates,
    mask_pii,
    normalize,
    read_documents,
    stage,
)
from groundup.data.clean.gopher import gopher_quality_filter
from groundup.data.filter_stats import REASON_KNOBS, FilterStats
from groundup.data.stable_hash import hash_fraction, hash_text, splitmix64
from groundup.recipe.data_config import DataConfig, GopherQualityConfig

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "module",
    ["clean.cleaning_steps", "clean.language", "clean.pii", "dedup.duplicates", "filter_stats", "readers.html"],
)
def test_docstring_examples(module: str):
    result = doctest.testmod(importlib.import_module(f"groundup.data.{module}"))
    assert result.attempted > 0
    assert result.failed == 0


def test_examples_of_the_book():
    result = doctest.testfile(str(ROOT / "book" / "texts.md"), module_relative=False)
    assert result.attempted > 20
    assert result.failed == 0


def test_all_names_are_exported():
    assert all(callable(getattr(groundup.data, name)) for name in groundup.data.__all__)
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        _ = groundup.data.missing


def test_import_is_light():
    code = "import sys, groundup.data; print([n for n in ('daft', 'numpy', 'pyarrow') if n in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_deduplicate_exact_and_near(prose: Callable[..., str]):
    texts = [prose(seed, 200) for seed in range(4)]
    near = texts[1].replace("The", "This", 1)
    assert near != texts[1]
    corpus = [*texts, near, texts[2].upper()]
    assert find_duplicates(corpus) == [0, 1, 2, 3, 1, 2]
    assert deduplicate(corpus) == texts
    assert find_duplicates(corpus, action="off") == [0, 1, 2, 3, 4, 2]
    assert find_duplicates(corpus, exact=False, num_bands=20, hashes_per_band=4) == [0, 1, 2, 3, 1, 2]
    assert find_duplicates([]) == []
    assert deduplicate(["", "", "!"]) == ["", "!"]


@pytest.mark.parametrize("kind", ["jsonl", "code"])
def test_survivors_equal_those_of_the_stage(kind: str, tmp_path: Path, recipe: Callable[..., Any], machine: Machine):
    """Real text and code, with copies, near copies and personal data."""
    files = sorted(ROOT.glob("book/*.md")) if kind == "jsonl" else sorted(ROOT.glob("src/groundup/artifacts/*.py"))
    texts = [
        text for file in files for text in file.read_text(encoding="utf-8").split("\n## " if kind == "jsonl" else "\0")
    ]
    texts += [
        texts[3].upper(),
        texts[4].replace(" ", "  "),
        texts[5].replace("the", "this", 1) + " jane@example.org",
        "",
        "short",
    ]
    (tmp_path / "in").mkdir()
    if kind == "jsonl":
        lines = [json.dumps({"text": text, "id": str(index)}) for index, text in enumerate(texts)]
        (tmp_path / "in" / "a.jsonl").write_text("\n".join(lines))
    else:
        for index, text in enumerate(texts):
            (tmp_path / "in" / f"{index:03d}.py").write_text(text)
    source = {"name": "a", "kind": kind, "path": str(tmp_path / "in")}
    knobs = {"language": {"languages": ["en"]}, "minhash_dedup": {"threshold": 0.6}}
    (tmp_path / "out").mkdir()
    metrics = stage.run(recipe(sources=[source], validation_fraction=0, **knobs), {}, tmp_path / "out", machine)
    files = (tmp_path / "out" / "train").glob("*.parquet")
    found = [text for file in files for text in pyarrow.parquet.read_table(file)["text"].to_pylist()]
    kept, dropped = clean_texts(texts, kind, language=knobs["language"])  # type: ignore[arg-type]
    survivors = deduplicate([document.text for document in kept], kind, seed=7, **knobs["minhash_dedup"])  # type: ignore[arg-type]
    assert sorted(survivors) == sorted(found)
    assert 0 < len(survivors) < len(kept) < len(texts)
    counts = {reason: row["documents"] for reason, row in metrics["sources"]["a"]["dropped"].items()}
    assert sum(counts.values()) == len(texts) - len(survivors)
    for reason in {document.reason for document in dropped} - {"empty"}:
        assert counts[reason] == sum(document.reason == reason for document in dropped)


def test_several_texts_give_a_list_and_progress():
    done: list[tuple[str, float]] = []

    class Counted(Progress):
        @contextmanager
        def task(self, name: str, total: float | None = None, unit: str = "") -> Iterator[ProgressTask]:
            task = ProgressTask(name, total, unit)
            yield task
            done.append((name, task.completed))

    progress = Counted()
    mails = ["write to jane@example.org", "nothing"]
    assert (
        mask_pii(iter(mails), progress=progress)
        == [mask_pii(text) for text in mails]
        == ["write to <email>", "nothing"]
    )
    assert detect_language(mails, progress=progress) == [detect_language(text) for text in mails]
    pages = ["<p>One of them.</p>", "<p>Zwei, schön.</p>".encode("utf-16")]
    assert extract_text(pages, "resiliparse", progress=progress) == ["One of them.", "Zwei, schön."]
    clean_texts(mails, progress=progress)
    deduplicate(mails, progress=progress)
    assert [name for name, count in done if count == 2] == [
        "masking", "detecting languages", "extracting", "cleaning", "hashing",
    ]  # fmt: skip
    assert mask_pii([]) == detect_language([]) == extract_text([]) == []


def test_lone_surrogates_do_no_harm():
    broken = "The weather\ud800 is fine today, and we go to the beach."
    assert deduplicate([broken, broken]) == [broken]
    assert detect_language(broken)[0] == "en"
    assert mask_pii(f"{broken} a@example.com") == f"{broken} <email>"


def test_threshold_verifies_candidates(prose: Callable[..., str]):
    text = prose(1, 200)
    near = text.replace("The", "This", 1)
    assert find_duplicates([text, near], threshold=0.5) == [0, 0]
    assert find_duplicates([text, near], threshold=1.0) == [0, 1]


def test_clean_texts(prose: Callable[..., str]):
    short = "This is a short text about the weather."
    french = "Ceci est une phrase tout à fait ordinaire. " * 20
    kept, dropped = clean_texts(
        [prose(1, 200) + " Write to jane@example.org.", short, french], language={"languages": ["en"]}
    )
    assert [document.id for document in kept] == ["0"]
    assert kept[0].text.endswith("Write to <email>.")
    assert [(document.id, document.reason) for document in dropped] == [
        ("1", "gopher_repetition: top_3_gram"), ("2", "language: fr"),
    ]  # fmt: skip
    kept, dropped = clean_texts(["short"], language={"languages": []}, gopher_quality={"min_words": 1, "min_stop_words": 0},
                                fineweb={"kinds": []})  # fmt: skip
    assert [document.text for document in kept] == ["short"]
    assert dropped == []


def test_stop_words_are_counted_in_any_case():
    drop_reason = gopher_quality_filter(GopherQualityConfig(min_words=1, min_stop_words=2))
    assert drop_reason("The mill stands OF stone.") is None
    assert drop_reason("The mill stands there.") == "no_stop_words"


def test_punctuation_alone_has_few_words():
    assert gopher_quality_filter(GopherQualityConfig(min_words=0))("... !!!") == "few_words"


def test_texts_and_pages():
    assert normalize("a\r\nb\u00a0c ") == "a\nb c"
    assert mask_pii("call +49 30 1234567", phones=False) == "call +49 30 1234567"
    assert mask_pii("call +49 30 1234567") == "call <phone>"
    page = "<html><body><article>" + "<p>One paragraph of the page.</p>" * 5 + "</article></body></html>"
    assert "One paragraph" in extract_text(page)
    assert extract_text(page.encode("utf-16"), "resiliparse").count("One paragraph") == 5
    assert extract_text("<div>" * 1000) == ""


def test_read_documents(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"content": text}) for text in ("one", "two")))
    documents = list(read_documents(tmp_path / "*.jsonl", "jsonl", text_column="content"))
    assert [(document.id, document.text) for document in documents] == [("a.jsonl:1", "one"), ("a.jsonl:2", "two")]


def test_no_document_is_an_error_that_says_why(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"content": "one", "n": 1}\n')
    with pytest.raises(UserError, match=r"no document found: 1 document: .*no column body; columns: content, n"):
        list(read_documents(tmp_path / "a.jsonl", "jsonl", text_column="body"))


def test_stable_hashes():
    values = [hash_fraction(str(index)) for index in range(2000)]
    assert all(0 <= value < 1 for value in values)
    assert abs(sum(values) / len(values) - 0.5) < 0.02
    assert hash_fraction("a", 1) != hash_fraction("a", 2)
    assert hash_text("a") == hash_text("a") != hash_text("b")
    import numpy

    mixed = splitmix64(numpy.arange(1000, dtype=numpy.uint64))
    assert len(numpy.unique(mixed)) == 1000


def test_a_source_that_loses_most_of_its_documents_is_a_warning():
    stats = FilterStats(
        read=[300, 0], kept=[9, 0], dropped={"language: de": [6, 0], "gopher_quality: no_stop_words": [285, 0]}
    )
    *_, warning = stats.describe("articles")
    assert warning.startswith("warning: articles: 97% of the documents were dropped")
    assert "no stop words (data.gopher_quality.min_stop_words)" in warning
    images = FilterStats(read=[300, 0], kept=[9, 0], dropped={"unknown_kind": [291, 0]})
    assert not any(line.startswith("warning") for line in images.describe("articles"))


def test_every_rule_of_the_filters_has_an_existing_knob():
    for table, knobs in REASON_KNOBS.items():
        fields = type(getattr(DataConfig(sources=[{"name": "a", "kind": "text", "path": "-"}]), table)).model_fields
        assert set(knobs.values()) <= set(fields), table


def test_top_reasons_name_the_knob():
    stats = FilterStats(dropped={"language: de": [291, 9], "near_duplicate": [1, 1], "license: GPL-3.0": [2, 1]})
    assert stats.top_reasons(3) == [
        "291 documents: language is de, not in data.language.languages",
        "2 documents: license is GPL-3.0, not in data.code.licenses",
        "1 document: near duplicate (data.minhash_dedup)",
    ]
