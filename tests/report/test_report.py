import json
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.artifacts.manifest import Manifest
from groundup.recipe import load_recipe, parse_recipe
from groundup.recipe.output_config import ReportConfig
from groundup.report import corpus_plots, run_summary, write_report
from groundup.report.html_report import render_html
from groundup.report.pdf_report import render_pdf
from groundup.report.report_document import build_document
from groundup.report.run_data import collect_run
from groundup.report.run_summary import summarize_run
from groundup.report.sections.cover_page import cover_page
from groundup.report.sections.data_section import _dropped_by_stage
from groundup.report.sections.recipe_section import recipe_section as recipe_section
from groundup.report.sections.scores_section import scores_section
from groundup.report.stage import run as run_stage

ALL = ("data", "tokenizer", "tokens", "base", "scores", "chat", "quantized", "export")
RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.toml"))


@pytest.fixture(scope="module")
def report(write_run, tmp_path_factory):
    """(run_data, document) of a complete run."""
    run_data = collect_run(write_run(tmp_path_factory.mktemp("runs") / "made-up"))
    return run_data, build_document(run_data)


def texts(value):
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from texts(inner)


class Page(HTMLParser):
    """Tags, attributes and text of an HTML page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def test_sections_of_a_complete_run(report):
    titles = [section["title"] for section in report[1]["sections"]]
    assert titles == [
        "Plan and outcome", "Data", "Corpus", "Tokenization", "Pretraining", "Evaluation", "Base model samples",
        "Chat fine-tuning", "4-bit quantization", "Usage", "Provenance", "Recipe",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "stages",
    [
        (),
        ("data",),
        ("data", "tokenizer"),
        ("data", "tokenizer", "tokens", "base"),
        ("base", "scores"),
        ("chat", "quantized"),
    ],
)
def test_partial_runs(write_run, tmp_path, stages):
    document = build_document(collect_run(write_run(tmp_path / "part", stages)))
    titles = [section["title"] for section in document["sections"]]
    assert ("Data" in titles) == ("data" in stages)
    assert ("Evaluation" in titles) == ("scores" in stages)
    assert ("Chat fine-tuning" in titles) == ("chat" in stages)
    assert render_pdf(document).startswith(b"%PDF-")
    assert render_html(document).endswith("</html>\n")


def test_missing_metrics(write_run, tmp_path):
    """Optional metrics may be missing."""
    run = write_run(tmp_path / "old")
    for folder, needed in {
        "04-base": ("parameters", "tokens", "steps", "final_loss"),
        "05-scores": ("bits_per_byte", "bits_per_byte_interval", "perplexity", "documents", "tokens"),
        "06-chat": (),
        "09-quantized": ("method", "bits", "bytes", "group_size", "bits_per_weight"),
        "10-export": ("format", "dtype"),
    }.items():
        manifest = json.loads((run / folder / "manifest.json").read_text())
        manifest["metrics"] = {key: manifest["metrics"][key] for key in needed}
        manifest["provenance"] = {}
        (run / folder / "manifest.json").write_text(json.dumps(manifest))
    manifest = json.loads((run / "01-data" / "manifest.json").read_text())
    for row in manifest["metrics"]["sources"].values():
        for key in ("lengths", "languages", "train", "validation", "tokens_estimated", "inputs", "trimmed"):
            del row[key]
    del manifest["metrics"]["duplicate_clusters"]
    (run / "01-data" / "manifest.json").write_text(json.dumps(manifest))
    (run / "01-data" / "clusters.jsonl").unlink()
    (run / "plan.json").unlink()
    (run / "04-base" / "steps.jsonl").unlink()
    document = build_document(collect_run(run))
    assert render_pdf(document).startswith(b"%PDF-")
    assert summarize_run(run)


def test_no_unprintable_characters(report):
    assert all(ord(c) >= 32 or c in "\n\t" for text in texts(report[1]) for c in text)


def test_text_is_escaped(report):
    """The run's texts contain Typst, HTML and Jinja syntax."""
    document = report[1]
    assert any("#panic(" in text for text in texts(document))
    assert render_pdf(document).startswith(b"%PDF-")
    page = Page(render_html(document))
    assert "script" not in page.tags
    assert '<script>alert("html")</script> {{ jinja }}' in page.text


def test_page_is_self_contained(report):
    page = Page(render_html(report[1]))
    assert not {"link", "img", "iframe", "object", "script"} & set(page.tags)
    targets = [value for name, value in page.attributes if name in ("href", "src", "xlink:href")]
    assert targets
    assert all(target.startswith("#") for target in targets)
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {target[1:] for target in targets} <= set(ids)
    assert page.tags.count("svg") == sum(b["kind"] == "figure" for s in report[1]["sections"] for b in s["elements"])


def test_reproducible(report):
    run_data, document = report
    assert build_document(run_data) == document
    assert render_pdf(document) == render_pdf(document)
    assert render_html(document) == render_html(document)
    assert b"CreationDate" not in render_pdf(document)


def test_numbers_and_texts(report):
    page = Page(render_html(report[1])).text.replace("\u00a0", " ")
    for text in (
        "1.412 bits per byte",
        "interval over documents is 1.377 to 1.449",
        "5.21 million",
        "6.41 MB (float: 20.8 MB)",
        "8,192 documents of 4 sources",
        "8,156 of 8,192 documents are “en”",
        "dropped 356 exact and 157 near duplicates",
        "40 clusters with 91 documents, 37 of them pairs",
        "9 duplicates · web",
    ):
        assert text in page, text


def test_cover_names_the_strongest_baseline_and_the_warnings(report):
    run_data = report[0]
    scores = run_data["stages"]["scores"]["metrics"]
    worse = scores | {"bits_per_byte": 2.3, "samples": [{"prompt": "The", "text": "of" + "," * 20}]}
    stages = run_data["stages"] | {"scores": run_data["stages"]["scores"] | {"metrics": worse}}
    card = [
        f"{name}: {''.join(map(str, value))}"
        for name, value in cover_page(run_data | {"stages": stages}, None, None)["card"]
    ]
    assert any("strongest baseline, bigram: 2.02" in row for row in card)
    assert "Warning: 1 of 1 samples are blank or repeat themselves" in card
    assert "Warning: 2.300 bits per byte is no better than bigram (2.020): longer training, or more text" in card


def test_peak_memory_is_the_maximum_of_the_step_records(report):
    rows = next(b["rows"] for b in report[1]["sections"][0]["elements"] if b["kind"] == "table")
    (row,) = (row for row in rows if row[0] == ["peak memory per device"])
    assert row[2] == ["3.00\u00a0GB"]


def test_funnel_counts(report):
    sources = report[0]["stages"]["data"]["metrics"]["sources"]
    (figure,) = (b for s in report[1]["sections"] for b in s["elements"] if b.get("name") == "funnels")
    for name, row in sources.items():
        assert f"{name} {row['read']['documents']:,} read, {row['kept']['documents']:,} kept" in figure["alt"]
    lost = _dropped_by_stage(sources["wikipedia"])
    assert lost == {
        "readable": 0, "not contaminated": 0, "language": 312, "quality": 280, "deduplicated": 117, "sampled": 0,
    }  # fmt: skip


@pytest.mark.parametrize("number", [1, 2, 7, 8, 40])
def test_plots_of_any_number_of_sources(number):
    parts = {f"source {i} with a name": float(number - i) ** 3 for i in range(number)}
    plots = [
        corpus_plots.plot_mixtures({"read": parts, "shown": parts}),
        corpus_plots.plot_lengths({name: {64: 3, 1 << 20: 1} for name in parts}),
        corpus_plots.plot_funnels({name: [9, 5, 0] for name in parts}, ["found", "a", "b"]),
    ]
    assert all("</svg>" in svg for svg in plots)
    text = [plots[0], plots[1]]
    assert all((f"{number - 6} others" in svg) == (number > 7) for svg in text)


def test_non_finite_losses(write_run, tmp_path):
    run_data = collect_run(write_run(tmp_path / "spikes"))
    run_data["steps"][7] |= {"loss": None, "skipped": "loss nan"}
    run_data["steps"][9] |= {"loss": 1e9, "skipped": "a spike"}
    assert render_html(build_document(run_data)).endswith("</html>\n")


def test_stage(write_run, tmp_path):
    run = write_run(tmp_path / "made-up", ("data", "base"))
    recipe = SimpleNamespace(report=ReportConfig(title="A *title*", author="An author"), name="made-up")
    inputs = {"data": run / "01-data", "base": run / "04-base"}
    found = []
    for _ in range(2):
        out = run / "11-report.partial"
        out.mkdir(exist_ok=True)
        assert run_stage(recipe, inputs, out, Machine()) == {"stages": ["data", "base"]}
        found.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert found[0] == found[1]
    assert set(found[0]) == {"report.pdf", "report.html", "report.json"}
    assert "A *title*" in found[0]["report.html"].decode()
    Manifest("report", 1, "f" * 64).write(out)
    out.rename(run / "11-report")
    assert list(collect_run(run)["stages"]) == ["data", "base"]


def test_write_report(write_run, tmp_path):
    run = write_run(tmp_path / "made-up", ("data",))
    assert write_report(run, tmp_path / "new" / "mine.pdf") == tmp_path / "new" / "mine.pdf"
    assert (tmp_path / "new" / "mine.pdf").read_bytes().startswith(b"%PDF-")
    assert (tmp_path / "new" / "mine.html").read_text().startswith("<!DOCTYPE html>")


def test_errors(write_run, tmp_path):
    with pytest.raises(UserError, match="no such run folder"):
        write_report(tmp_path / "nowhere", tmp_path / "a.pdf")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no finished stage"):
        write_report(tmp_path / "empty", tmp_path / "a.pdf")
    run = write_run(tmp_path / "damaged", ("base",))
    (run / "04-base" / "steps.jsonl").write_text('{"step": 0,')
    with pytest.raises(UserError, match=r"steps.jsonl, line 1: damaged or cut off"):
        collect_run(run)
    whole = write_run(tmp_path / "whole", ("data",))
    with pytest.raises(UserError, match="cannot be written"):
        write_report(whole, whole / "recipe.json" / "a.pdf")


def test_summarize_run(write_run, tmp_path):
    lines = summarize_run(write_run(tmp_path / "made-up"))
    for text in ("5.21 million parameters", "1.412 bits per byte", "you:   Hello", "groundup chat", "groundup serve"):
        assert text in lines
    assert "\u00a0" not in lines
    base_only = summarize_run(write_run(tmp_path / "base", ("base", "scores")))
    assert "The city of London" in base_only
    assert "groundup chat" not in base_only


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_round_trip(path):
    """The listing of the last section parses to the same recipe."""
    recipe = load_recipe(path, ["machine.threads=3"])
    dumped = json.loads(json.dumps(recipe.model_dump(mode="json", exclude_none=True)))
    (listing,) = (b["text"] for b in recipe_section({"recipe": dumped})["elements"] if b["kind"] == "listing")
    again = parse_recipe(tomllib.loads(listing))
    assert again == load_recipe(path).model_copy(update={"machine": again.machine})
    assert "machine" not in listing
    assert len(listing.splitlines()) < 120


def test_report_imports_no_torch():
    modules = ", ".join(
        f"groundup.report.{name}"
        for name in ("stage", "report_document", "html_report", "pdf_report", "plan_document", "run_summary")
    )
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_run_that_only_quantizes_says_how_good_the_model_is():
    held_out = {"float": {"top1_agreement": 1.0}, "gptq": {"top1_agreement": 0.915, "kl_divergence": 0.0312}}
    metrics = {"method": "gptq", "bits": 4, "held_out": held_out, "eval_tokens": 2048, "text_origin": "samples"}
    line = "".join(run_summary._scores({"stages": {"quantized": {"metrics": metrics}}}))
    for words in ("4-bit model: 92%", "KL divergence 0.031", "2,048 tokens of text that the float model wrote itself"):
        assert words in line


def test_scores_of_tasks_have_flags_of_contamination():
    score = {"items": 9, "accuracy": 0.5, "interval": [0.2, 0.8], "chance": 0.25}
    lost = {"documents": 2, "tokens": 9, "bytes": 20, "bits_per_byte": 2.0, "bits_per_byte_interval": None}
    metrics = lost | {
        "perplexity": 4.0, "tasks": {"true continuation": score, "quiz": score},
        "harness": {"piqa": {"acc": 0.5, "items": 9}}, "not_scored": ["notes"],
        "sources": {name: lost | {"perplexity": 4.0} for name in ("web", "books")},
    }  # fmt: skip
    stages = {"scores": {"metrics": metrics}}
    found = scores_section({"stages": stages, "contamination": {"quiz": "cleaned of 2 items, 4 documents dropped"}})
    assert found is not None
    tables = [element for element in found["elements"] if element["kind"] == "table"]
    flags = {row[0][0]: row[-1][0] for table in tables for row in table["rows"]}
    assert flags["quiz"] == "cleaned of 2 items, 4 documents dropped"
    assert (flags["true continuation"], flags["piqa"]) == ("–", "not checked")
    assert "No held-out text of: notes." in str(found)
