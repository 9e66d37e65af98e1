"""The functions of groundup.data on texts in memory."""

import doctest
import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import groundup.data
from groundup.artifacts.errors import UserError
from groundup.data import clean_texts, deduplicate, extract_text, find_duplicates, mask_pii, normalize, read_documents
from groundup.data.clean.gopher import gopher_quality_filter
from groundup.data.filter_stats import REASON_KNOBS, FilterStats
from groundup.data.stable_hash import hash_fraction, hash_text, splitmix64
from groundup.recipe.data_config import DataConfig, GopherQualityConfig


@pytest.mark.parametrize(
    "module",
    ["clean.cleaning_steps", "clean.language", "clean.pii", "dedup.duplicates", "filter_stats", "readers.html"],
)
def test_docstring_examples(module: str):
    result = doctest.testmod(importlib.import_module(f"groundup.data.{module}"))
    assert result.attempted > 0
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
