"""Planned seconds of the stages of a run that starts from a model that exists."""

import json
from pathlib import Path

import pytest

from groundup.artifacts.machine import Machine
from groundup.plan import derive
from groundup.plan.shape.model_shape import config_for_width
from groundup.plan.time.stage_time import estimate_stage_seconds
from groundup.recipe import parse_recipe
from groundup.stage_runs import estimate_run_seconds

CHAT = {"name": "chat", "kind": "messages", "path": "chat.jsonl"}


def seconds(width: int = 256, **tables: object) -> dict[str, float] | None:
    recipe = parse_recipe({"name": "x", "budget": {"hardware": "cpu-2"}, "base": {"model": "m.gguf"}, **tables})
    plan = derive(recipe, base_config=config_for_width(width, 4096, {"context_length": 512}))
    return estimate_stage_seconds(plan, None, 40_000, 200_000, 100.0 if "finetune" in tables else None)


def test_every_stage_of_a_model_that_exists_has_a_time():
    tables = {
        "finetune": {"conversations": [CHAT]},
        "evaluate": {"text": "a"},
        "quantize": {},
        "export": {},
        "report": {},
    }
    found = seconds(**tables)
    assert found is not None
    assert list(found) == ["base", "evaluate", "finetune", "quantize", "export", "report"]
    assert 100 < found["finetune"] < 150  # answering of questions, before and after
    longer = seconds(1024, **tables)
    assert longer is not None
    assert longer["finetune"] > found["finetune"] + 5
    assert all(longer[name] > found[name] for name in ("base", "evaluate", "quantize", "export"))


def test_a_model_without_text_writes_some_for_its_quantization():
    alone, tuned = seconds(quantize={}), seconds(quantize={}, finetune={"conversations": [CHAT]})
    assert alone is not None
    assert tuned is not None
    assert alone["quantize"] > tuned["quantize"] + 5


def test_a_base_model_is_given_not_read():
    with pytest.raises(ValueError, match="needs the configuration of its model"):
        derive(parse_recipe({"name": "x", "base": {"model": "m.gguf"}, "report": {}}))


def test_duplicates_of_conversations_cost_no_time(tmp_path: Path):
    """Ten times the file, the same conversations: what a stage keeps is what it trains on."""

    def finetuning(name: str, copies: int) -> float:
        rows = [
            json.dumps(
                {"messages": [{"role": "user", "content": f"Is {n} odd?"}, {"role": "assistant", "content": "No."}]}
            )
            for n in range(100)
        ]
        (tmp_path / name).write_text("\n".join(rows * copies))
        (tmp_path / "a.txt").write_text("text")
        recipe = {
            "name": "x", "budget": {"hardware": "cpu-2", "hours": 0.1},
            "data": {"sources": [{"name": "a", "kind": "text", "path": str(tmp_path / "a.txt")}]},
            "tokenizer": {"vocab_size": 4096}, "model": {}, "train": {},
            "finetune": {"conversations": [CHAT | {"path": str(tmp_path / name)}]},
        }  # fmt: skip
        found = estimate_run_seconds(derive(parse_recipe(recipe)), Machine())
        assert found is not None
        return found["finetune"]

    assert finetuning("ten.jsonl", 10) == pytest.approx(finetuning("one.jsonl", 1), rel=0.01)
