"""Planned seconds of the stages of a run that starts from a model that exists."""

import pytest

from groundup.plan import derive
from groundup.plan.model_shape import config_for_width
from groundup.plan.stage_time import estimate_stage_seconds
from groundup.recipe import parse_recipe

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
