"""The stage 08-reinforcement on a tiny model, and what its recipe is refused for."""

import json

import pytest

import groundup.finetune.reinforcement.stage as reinforcement_stage
from groundup.artifacts.errors import UserError
from groundup.artifacts.jsonl_file import read_jsonl
from groundup.artifacts.machine import Machine
from groundup.finetune.reinforcement.reinforcement_cost import estimate_reinforcement
from groundup.finetune.reinforcement.reinforcement_plan import check_reinforcement, identity
from groundup.finetune.reinforcement.stage import run
from groundup.model import load_model, save_model
from groundup.recipe import RecipeView, parse_recipe
from groundup.stage_runs import derive_recipe
from groundup.train.engines.native_engine import NativeEngine


@pytest.fixture
def values(make_decoder, byte_tokenizer, tmp_path):
    """A recipe with a base model and thirty sums."""
    save_model(make_decoder(vocab_size=byte_tokenizer.vocab_size), tmp_path / "base")
    byte_tokenizer.save(tmp_path / "base")
    lines = [json.dumps({"question": f"{n}+1=", "answer": str(n + 1)}) + "\n" for n in range(30)]
    (tmp_path / "sums.jsonl").write_text("".join(lines))
    return {
        "name": "sums",
        "base": {"model": str(tmp_path / "base")},
        "reinforcement": {
            "sources": [{"name": "sums", "path": str(tmp_path / "sums.jsonl")}], "max_answer_tokens": 3, "group_size": 4,
            "validation_fraction": 0.2, "epochs": 0.7, "lora_rank": 2, "prompts": ["1+1="],
        },
    }  # fmt: skip


def derived(values, *overrides):
    return derive_recipe(parse_recipe(values, overrides)).recipe


def test_stage(values, tmp_path):
    recipe = derived(values)
    check_reinforcement(recipe)
    cost = estimate_reinforcement(recipe, Machine())
    assert cost is not None
    assert (cost["problems"], cost["steps"], cost["answers"]) == (30, 3, 96)
    out = tmp_path / "out"
    out.mkdir()
    inputs = {"base": tmp_path / "base"}
    metrics = run(RecipeView(recipe, ("reinforcement", "seed")), inputs, out, Machine(threads=1))
    assert metrics["steps"] == 3
    assert metrics["held_out"]["problems"] == metrics["problems"]["validation"] == 6
    assert len(metrics["curve"]["reward"]) == 3
    load_model(out)
    assert {"adapter", "samples.jsonl", "held_out.jsonl", "steps.jsonl"} <= {path.name for path in out.iterdir()}


def test_a_failure_while_answering_loses_no_step(values, tmp_path, monkeypatch):
    view, inputs = RecipeView(derived(values), ("reinforcement", "seed")), {"base": tmp_path / "base"}
    real, calls = reinforcement_stage.greedy_answers, []

    def failing(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("while answering")
        return real(*arguments)

    (tmp_path / "out").mkdir()
    monkeypatch.setattr(reinforcement_stage, "greedy_answers", failing)
    with pytest.raises(RuntimeError, match="while answering"):
        run(view, inputs, tmp_path / "out", Machine(threads=1))
    monkeypatch.setattr(NativeEngine, "forward_backward", lambda *_: pytest.fail("a step was computed again"))
    metrics = run(view, inputs, tmp_path / "out", Machine(threads=1))
    assert metrics["steps"] == len(list(read_jsonl(tmp_path / "out" / "steps.jsonl"))) == 3


def test_function_only_from_the_command_line(values, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def short(text, problem):\n    return 1.0\n")
    values["reinforcement"]["rewards"] = [{"kind": "function", "function": f"{path}:short"}]
    with pytest.raises(UserError, match="which the command line does not allow"):
        check_reinforcement(derived(values))
    with pytest.raises(UserError, match="read from the command line alone"):
        parse_recipe(values | {"machine": {"reward_code": str(path)}})
    recipe = derived(values, f"machine.reward_code={path}")
    check_reinforcement(recipe)
    assert recipe.reinforcement is not None
    machine = Machine(reward_code=str(path))
    before = identity(recipe.reinforcement, machine)
    path.write_text("def short(text, problem):\n    return 2.0\n")
    assert identity(recipe.reinforcement, machine) != before


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"max_answer_tokens": 96}, "leaves no room for a prompt in 96 tokens"),
        ({"rewards": [{"kind": "tests"}]}, "need the field tests, which no problem has"),
        ({"rewards": [{"kind": "regex", "pattern": "("}]}, "unterminated subpattern"),
        ({"batch_tokens": 64}, "a batch is prompts_per_step x group_size answers"),
        ({"rewards": [{"kind": "regex"}]}, "pattern: needed for kind = regex"),
    ],
)
def test_refused_before_anything_runs(values, knobs, message):
    with pytest.raises(UserError, match=message):
        check_reinforcement(derived(values | {"reinforcement": values["reinforcement"] | knobs}))
