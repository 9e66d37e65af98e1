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
from groundup.plan import derive
from groundup.recipe import load_recipe, parse_recipe
from groundup.recipe.report_config import ReportConfig
from groundup.report import corpus_plots, write_report
from groundup.report.html_report import render_html
from groundup.report.pdf_report import render_pdf
from groundup.report.plan_document import plan_document, write_plan_pdf
from groundup.report.report_document import build_document
from groundup.report.run_data import collect_run
from groundup.report.run_summary import summarize_run
from groundup.report.sections.data_section import _dropped_by_stage
from groundup.report.sections.recipe_section import recipe_section as recipe_section
from groundup.report.stage import run as run_stage

ALL = ("data", "tokenizer", "tokens", "base", "scores", "chat", "quantized", "export")
RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.toml"))


@pytest.fixture(scope="module")
def told(write_run, tmp_path_factory):
    """(facts, story) of a whole run."""
    facts = collect_run(write_run(tmp_path_factory.mktemp("runs") / "made-up"))
    return facts, build_document(facts)


def texts(value):
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from texts(inner)


class Page(HTMLParser):
    """What a browser would see: the elements, the attributes, the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def test_every_section_of_a_whole_run(told):
    titles = [section["title"] for section in told[1]["sections"]]
    assert titles == [
        "The plan, and what happened", "The text", "What the text holds", "The tokens", "Learning", "Scores",
        "In its own words", "The chat", "What 4 bits cost", "How to use it", "Provenance", "The recipe",
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
def test_a_partial_run_tells_what_it_has(write_run, tmp_path, stages):
    story = build_document(collect_run(write_run(tmp_path / "part", stages)))
    titles = [section["title"] for section in story["sections"]]
    assert ("The text" in titles) == ("data" in stages)
    assert ("Scores" in titles) == ("scores" in stages)
    assert ("The chat" in titles) == ("chat" in stages)
    assert render_pdf(story).startswith(b"%PDF-")
    assert render_html(story).endswith("</html>\n")


def test_manifests_of_another_age_still_tell(write_run, tmp_path):
    """Metrics that a stage may leave out are left out of the report, and nothing breaks."""
    run = write_run(tmp_path / "old")
    for folder, needed in {
        "04-base": ("parameters", "tokens", "steps", "final_loss"),
        "05-scores": ("bits_per_byte", "bits_per_byte_interval", "perplexity", "documents", "tokens"),
        "06-chat": (),
        "07-quantized": ("method", "bits", "bytes", "group_size", "bits_per_weight"),
        "08-export": ("format", "dtype"),
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
    story = build_document(collect_run(run))
    assert render_pdf(story).startswith(b"%PDF-")
    assert summarize_run(run)


def test_nothing_that_a_page_cannot_show(told):
    assert all(ord(c) >= 32 or c in "\n\t" for text in texts(told[1]) for c in text)


def test_foreign_text_is_never_markup(told):
    """The run's texts hold Typst, HTML and Jinja that would fail or act if anything read them as such."""
    story = told[1]
    assert any("#panic(" in text for text in texts(story))
    assert render_pdf(story).startswith(b"%PDF-")
    page = Page(render_html(story))
    assert "script" not in page.tags
    assert '<script>alert("html")</script> {{ jinja }}' in page.text


def test_the_page_needs_nothing_else(told):
    page = Page(render_html(told[1]))
    assert not {"link", "img", "iframe", "object", "script"} & set(page.tags)
    targets = [value for name, value in page.attributes if name in ("href", "src", "xlink:href")]
    assert targets
    assert all(target.startswith("#") for target in targets)
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {target[1:] for target in targets} <= set(ids)
    assert page.tags.count("svg") == sum(
        b["kind"] == "figure" for s in told[1]["sections"] for b in s["elements"]
    )


def test_same_manifests_same_bytes(told):
    facts, story = told
    assert build_document(facts) == story
    assert render_pdf(story) == render_pdf(story)
    assert render_html(story) == render_html(story)
    assert b"CreationDate" not in render_pdf(story)


def test_numbers_stand_where_they_belong(told):
    page = Page(render_html(told[1])).text.replace("\u00a0", " ")
    for said in (
        "1.412 bits for each byte",
        "between 1.377 and 1.449",
        "5.21 million",
        "6.41 MB instead of 20.8 MB",
        "8,192 documents of 4 sources",
        "8,156 of 8,192 texts whose language was judged are in “en”",
        "356 equal and 157 nearly equal ones fell",
        "40 clusters of 91 documents in all, 37 of them pairs",
        "9 alike · web",
    ):
        assert said in page, said


def test_funnels_count_down_to_what_was_kept(told):
    sources = told[0]["stages"]["data"]["metrics"]["sources"]
    (figure,) = (b for s in told[1]["sections"] for b in s["elements"] if b.get("name") == "funnels")
    for name, row in sources.items():
        assert (
            f"{name} {row['read']['documents']:,} found, {row['kept']['documents']:,} kept" in figure["alt"]
        )
    lost = _dropped_by_stage(sources["wikipedia"])
    assert lost == {
        "readable": 0, "no test item": 0, "right language": 312, "good enough": 280, "no repeat": 117, "in the mix": 0,
    }  # fmt: skip


@pytest.mark.parametrize("number", [1, 2, 7, 8, 40])
def test_drawings_of_any_number_of_sources(number):
    parts = {f"source {i} with a name": float(number - i) ** 3 for i in range(number)}
    drawn = [
        corpus_plots.plot_mixtures({"read": parts, "shown": parts}),
        corpus_plots.plot_lengths({name: {64: 3, 1 << 20: 1} for name in parts}),
        corpus_plots.plot_funnels({name: [9, 5, 0] for name in parts}, ["found", "a", "b"]),
    ]
    assert all("</svg>" in svg for svg in drawn)
    said = [drawn[0], drawn[1]]
    assert all((f"{number - 6} others" in svg) == (number > 7) for svg in said)


def test_losses_that_are_no_numbers_do_not_stop_the_report(write_run, tmp_path):
    facts = collect_run(write_run(tmp_path / "spikes"))
    facts["steps"][7] |= {"loss": None, "skipped": "loss nan"}
    facts["steps"][9] |= {"loss": 1e9, "skipped": "a spike"}
    assert render_html(build_document(facts)).endswith("</html>\n")


def test_the_stage_writes_three_files_and_leaves_itself_out(write_run, tmp_path):
    run = write_run(tmp_path / "made-up", ("data", "base"))
    recipe = SimpleNamespace(report=ReportConfig(title="A *title*", author="An author"), name="made-up")
    inputs = {"data": run / "01-data", "base": run / "04-base"}
    found = []
    for _ in range(2):
        out = run / "09-report.partial"
        out.mkdir(exist_ok=True)
        assert run_stage(recipe, inputs, out, Machine()) == {"stages": ["data", "base"]}
        found.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert found[0] == found[1]
    assert set(found[0]) == {"report.pdf", "report.html", "report.json"}
    assert "A *title*" in found[0]["report.html"].decode()
    Manifest("report", 1, "f" * 64).write(out)
    out.rename(run / "09-report")
    assert list(collect_run(run)["stages"]) == ["data", "base"]


def test_the_command_writes_beside_the_run(write_run, tmp_path):
    run = write_run(tmp_path / "made-up", ("data",))
    assert write_report(run, tmp_path / "new" / "mine.pdf") == tmp_path / "new" / "mine.pdf"
    assert (tmp_path / "new" / "mine.pdf").read_bytes().startswith(b"%PDF-")
    assert (tmp_path / "new" / "mine.html").read_text().startswith("<!DOCTYPE html>")


def test_what_cannot_be_told_is_one_line(write_run, tmp_path):
    with pytest.raises(UserError, match="no such run folder"):
        write_report(tmp_path / "nowhere", tmp_path / "a.pdf")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no finished stage"):
        write_report(tmp_path / "empty", tmp_path / "a.pdf")
    run = write_run(tmp_path / "damaged", ("base",))
    (run / "04-base" / "steps.jsonl").write_text('{"step": 0,')
    with pytest.raises(UserError, match=r"steps.jsonl: not readable"):
        collect_run(run)
    whole = write_run(tmp_path / "whole", ("data",))
    with pytest.raises(UserError, match="cannot be written"):
        write_report(whole, whole / "recipe.json" / "a.pdf")


def test_closing_lines(write_run, tmp_path):
    lines = summarize_run(write_run(tmp_path / "made-up"))
    for said in (
        "5.21 million parameters",
        "1.412 bits per byte",
        "you:   Hello",
        "groundup chat",
        "groundup serve",
    ):
        assert said in lines
    assert "\u00a0" not in lines
    base_only = summarize_run(write_run(tmp_path / "base", ("base", "scores")))
    assert "The city of London" in base_only
    assert "groundup chat" not in base_only


def test_blueprint(tmp_path):
    facts = derive(load_recipe(RECIPES[-1], ["budget.price_per_hour=2.5"])).summary()
    write_plan_pdf(facts, tmp_path / "plan.pdf")
    first = (tmp_path / "plan.pdf").read_bytes()
    write_plan_pdf(facts, tmp_path / "plan.pdf")
    assert first.startswith(b"%PDF-")
    assert first == (tmp_path / "plan.pdf").read_bytes()
    assert any(number["label"] == "at 2.5 an hour" for number in plan_document(facts)["cover"]["numbers"])
    with pytest.raises(UserError, match=r"no \[train\]"):
        write_plan_pdf({"name": "data-only"}, tmp_path / "none.pdf")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipe_in_the_report_is_the_recipe(path):
    """What stands in the last section, typed in again, is the same recipe."""
    recipe = load_recipe(path, ["machine.threads=3"])
    dumped = json.loads(json.dumps(recipe.model_dump(mode="json", exclude_none=True)))
    (listing,) = (b["text"] for b in recipe_section({"recipe": dumped})["elements"] if b["kind"] == "listing")
    again = parse_recipe(tomllib.loads(listing))
    assert again == load_recipe(path).model_copy(update={"machine": again.machine})
    assert "machine" not in listing
    assert len(listing.splitlines()) < 120


def test_no_torch_on_this_floor():
    modules = ", ".join(
        f"groundup.report.{name}"
        for name in ("stage", "report_document", "html_report", "pdf_report", "plan_document", "run_summary")
    )
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
