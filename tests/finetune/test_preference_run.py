"""[base] and [preference] in a recipe: planned, run, reported, and opened as the model of the run; the book's example."""

import json
import tomllib
from pathlib import Path

import pytest

from groundup import pipeline
from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.artifacts.progress import PROGRESS_KINDS
from groundup.finetune.preference import answer_samples
from groundup.finetune.preference.preference_plan import check_preference, estimate_preference
from groundup.interop import open_model
from groundup.interop.model_loading import resolve_model_path
from groundup.model import save_model
from groundup.recipe import Recipe, parse_recipe
from groundup.report.report_files import build_report
from groundup.stage_runs import derive_recipe

PAIRS = [{"prompt": f"Q{n}?", "chosen": f"yes {n}", "rejected": f"no {7 * n}"} for n in range(12)]


@pytest.fixture
def recipe(make_decoder, byte_tokenizer, tmp_path) -> Recipe:
    save_model(make_decoder(num_layers=1), tmp_path / "model")
    byte_tokenizer.save(tmp_path / "model")
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    section = {"sources": [{"name": "pairs", "path": str(tmp_path / "pairs.jsonl")}], "epochs": 1, "prompts": ["Q1?"]}
    return parse_recipe({"name": "p", "base": {"model": str(tmp_path / "model")}, "preference": section})


def test_a_run_ends_with_the_tuned_model(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(answer_samples, "MAX_SAMPLED_TOKENS", 4)
    run = tmp_path / "run"
    list(pipeline.run(recipe, run, Machine(threads=1, device="cpu", progress=PROGRESS_KINDS["none"]())))
    assert resolve_model_path(run) == run / "07-preference"
    assert open_model(run)[1].chat_template is not None
    assert "Preference tuning" in [section["title"] for section in build_report(run)["sections"]]


def test_the_plan_knows_steps_memory_and_time(recipe, tmp_path):
    derived = derive_recipe(recipe).recipe
    cost = estimate_preference(derived, Machine())
    assert cost is not None
    assert cost["preferences"] == 12
    assert cost["steps"] == 10  # two pairs are held out
    assert 0 < cost["hours"] < 1
    section = recipe.preference
    assert section is not None
    scoring = section.model_copy(update={"loss": "reward"})
    chained = parse_recipe({"name": "p", "base": {"model": str(tmp_path / "model")}, "export": {}})
    with pytest.raises(UserError, match=r"\[export\] after preference.loss = reward"):
        check_preference(derived.model_copy(update={"preference": scoring, "export": chained.export}))
    too_much = derived.model_copy(update={"preference": section.model_copy(update={"sequence_length": 3})})
    with pytest.raises(UserError, match="no preference fits into 3 tokens"):
        estimate_preference(too_much, Machine())
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "Q", "answer": "A"}\n')
    with pytest.raises(UserError, match=r"no preferences in pairs \(1 records read\)"):
        check_preference(derived)


def test_the_example_of_the_book_runs(make_decoder, byte_tokenizer, monkeypatch, capsys):
    page = (Path(__file__).parents[2] / "book" / "preferences.md").read_text()
    monkeypatch.setattr("groundup.interop.open_model", lambda path: (make_decoder(), byte_tokenizer))
    exec(compile(page.split("```python\n")[1].split("```")[0], "preferences.md", "exec"), {})
    assert float(capsys.readouterr().out.split()[0]) == 0.5
    parse_recipe(tomllib.loads(page.split("```toml\n")[1].split("```")[0]))
