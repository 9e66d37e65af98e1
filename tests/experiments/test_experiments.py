"""Sweeps and ladders: combinations, common stages, failed variants, and the prediction that the plan shows."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from groundup import pipeline, stage_runs
from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.artifacts.manifest import Manifest, verify_folder
from groundup.experiments import ladder, sweep
from groundup.experiments.variants import build_variants
from groundup.plan import derive
from groundup.plan.scaling.prediction import predict_loss
from groundup.recipe import load_recipe
from groundup.stages import Stage

TOML = """
name = "toy"
[budget]
hours = 50
[data]
sources = [{ name = "a", kind = "text", path = "*.txt" }]
[tokenizer]
vocab_size = 512
[model]
context_length = 64
[train]
learning_rate = 0.01
"""
CALLS: list[str] = []


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "toy.toml"
    path.write_text(TOML)
    return path


@pytest.fixture(autouse=True)
def _toy_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two stages: data, and a training whose score follows a scaling law and fails at large learning rates."""
    CALLS.clear()

    def data(recipe: Any, inputs: Any, out: Path, machine: Machine) -> dict[str, Any]:
        CALLS.append("data")
        (out / "text.txt").write_text("text")
        return {}

    def base(recipe: Any, inputs: Any, out: Path, machine: Machine) -> dict[str, Any]:
        CALLS.append("base")
        if recipe.train.learning_rate == 0.5:
            raise UserError("step 3: loss nan: not finite", hint="lower it")
        size = derive_size(recipe)
        score = 1 + 0.5 * (size / 1e6) ** -0.3 + recipe.train.learning_rate
        return {
            "validation": [{"step": 1, "bits_per_byte": score}], "final_loss": score, "speed": {"tokens_per_second": 9.0}
        }  # fmt: skip

    def derive_size(recipe: Any) -> float:
        from groundup.plan.shape.parameter_count import count_parameters
        from groundup.recipe import ModelConfig

        return count_parameters(ModelConfig(**recipe.model.model_dump(exclude_none=True))).total

    import sys

    monkeypatch.setitem(sys.modules, "toy_stages", SimpleNamespace(data=data, base=base))
    stages = (
        Stage("data", "01-data", "data", "toy_stages:data", extra_sections=("seed",)),
        Stage("base", "04-base", "train", "toy_stages:base", extra_sections=("model",), inputs=("data",)),
    )
    for each in (pipeline, stage_runs):
        monkeypatch.setattr(each, "STAGES", stages)


def test_grid_has_every_combination(recipe: Path):
    fitted = sweep.expand_grid(recipe, ["train.learning_rate=1e-3,1e-2", "train.beta2=0.9,0.95", "seed=4"])
    assert list(fitted) == [
        "train.learning_rate=1e-3,train.beta2=0.9",
        "train.learning_rate=1e-3,train.beta2=0.95",
        "train.learning_rate=1e-2,train.beta2=0.9",
        "train.learning_rate=1e-2,train.beta2=0.95",
    ]
    last = fitted["train.learning_rate=1e-2,train.beta2=0.95"]
    assert last.train is not None
    assert (last.seed, last.train.learning_rate, last.train.beta2) == (4, 0.01, 0.95)


@pytest.mark.parametrize(
    ("override", "values"),
    [
        ("a=1,2", ["1", "2"]),
        ('a=["x,y"],["z"]', ['["x,y"]', '["z"]']),
        ('a="x,y",{b=1,c=2}', ['"x,y"', "{b=1,c=2}"]),
        ("a=1", ["1"]),
    ],
)
def test_commas_inside_brackets_and_quotes_do_not_separate(override: str, values: list[str]):
    assert sweep.split_values(override) == values


def test_variant_names_are_safe_folder_names():
    assert "/" not in sweep.variant_name(['data.sources="../../x"'])
    assert sweep.variant_name(['a="x/y"']) != sweep.variant_name(['a="x:y"'])
    assert len(sweep.variant_name(["train.learning_rate=" + "1" * 300])) <= sweep.MAX_NAME_LENGTH


def test_sweep_without_several_values_is_an_error(recipe: Path):
    with pytest.raises(UserError, match="no knob has several values"):
        sweep.expand_grid(recipe, ["train.learning_rate=1e-3"])
    with pytest.raises(UserError, match=r"machine\.threads does not change the result"):
        sweep.expand_grid(recipe, ["machine.threads=1,2"])


def test_common_stages_are_built_once_and_failures_are_reported(recipe: Path, tmp_path: Path):
    recipes = sweep.expand_grid(recipe, ["train.learning_rate=1e-2,1e-3,0.5"])
    results = build_variants(recipes, tmp_path / "sweep", Machine())
    assert CALLS == ["data", "base", "base", "base"]
    for result in results[:2]:
        assert verify_folder(result.run_folder / "01-data") == []
        assert Manifest.read(result.run_folder / "04-base") is not None
    lines = sweep.format_sweep(results).splitlines()
    assert lines[1].startswith("train.learning_rate=1e-3 ")
    assert "failed: step 3: loss nan" in lines[3]
    assert [row["error"] is None for row in json.loads(sweep.results_to_json(results))] == [True, True, False]
    build_variants(recipes, tmp_path / "sweep", Machine())
    assert CALLS == ["data", "base", "base", "base", "base"], "only the failed one is tried again"


def test_deleting_a_linked_file_keeps_the_other_run(recipe: Path, tmp_path: Path):
    recipes = sweep.expand_grid(recipe, ["train.learning_rate=1e-2,1e-3"])
    first, second = build_variants(recipes, tmp_path / "sweep", Machine())
    (first.run_folder / "01-data" / "text.txt").unlink()
    assert verify_folder(second.run_folder / "01-data") == []


def test_ladder_prediction_is_shown_by_the_plan(recipe: Path, tmp_path: Path):
    loaded = load_recipe(recipe)
    recipes = ladder.ladder_recipes(loaded, 6, 0.1)
    plans = [derive(each).summary() for each in recipes.values()]
    target = derive(loaded).summary()
    assert 4 <= len(recipes) <= 6
    for plan in plans:
        assert plan["parameters"]["total"] < target["parameters"]["total"]
        assert plan["tokens_per_parameter"] == pytest.approx(target["tokens_per_parameter"], rel=0.01)
    assert plans[-1]["total_flops"] == pytest.approx(0.1 * target["total_flops"], rel=0.6)

    fitted = ladder.fit_and_predict(
        loaded, build_variants(recipes, tmp_path / "ladder", Machine()), tmp_path / "ladder"
    )
    size = target["parameters"]["total"]
    assert fitted["prediction"]["loss"] == pytest.approx(1.01 + 0.5 * (size / 1e6) ** -0.3, abs=0.02)
    assert "prediction:" in ladder.format_ladder(fitted)

    def predict(sets):
        changed = load_recipe(recipe, sets)
        return predict_loss(changed, derive(changed), tmp_path / "ladder")

    predicted = predict([])
    assert predicted is not None
    assert math.isclose(predicted["loss"], fitted["prediction"]["loss"])
    assert predict(["budget.hours=80"]) is not None, "another size, same signature"
    assert predict(["train.learning_rate=0.02"]) is None, "another signature"
    assert predict(["budget.tokens_per_parameter=60"]) is None, "another ratio"


def test_too_few_sizes_are_an_error(recipe: Path):
    with pytest.raises(UserError, match="different sizes up to"):
        ladder.ladder_recipes(load_recipe(recipe, ["budget.hours=0.01"]), 5, 0.1)


@pytest.mark.parametrize("fraction", [0.0, -1.0, math.nan, 2.0])
def test_compute_fraction_is_checked(recipe, fraction):
    with pytest.raises(UserError, match=r"compute fraction .* expected above 0 and at most 1"):
        ladder.ladder_recipes(load_recipe(recipe), 5, fraction)


def test_number_of_sizes_is_checked(recipe):
    with pytest.raises(UserError, match="1 sizes, expected at least 4"):
        ladder.ladder_recipes(load_recipe(recipe), 1, 0.1)
