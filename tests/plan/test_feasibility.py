"""Impossible wishes: what contradicts what, and a nearest plan that is possible."""

import re
from pathlib import Path

import pytest

from groundup.artifacts.errors import UserError
from groundup.plan import derive
from groundup.plan.checks.feasibility import MAX_PASSES
from groundup.plan.scaling.scaling_summary import summarize_scaling
from groundup.plan.time.run_time import estimate_run_time
from groundup.recipe import load_recipe, parse_recipe

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def plan(name: str, *sets: str, data_tokens: int | None = None):
    return derive(load_recipe(RECIPES / f"{name}.toml", sets), data_tokens)


@pytest.mark.parametrize(
    ("name", "sets", "message", "hint"),
    [
        ("llama-70b", ("budget.hardware=cpu-2",), r"70\.5 billion parameters on 1\.4 trillion tokens take .* days", "in a year"),
        ("llama-7b", ("budget.hours=1",), r"budget\.hours = 1, but 6\.74 billion parameters", r"set budget\.hours=\d+, or train"),
        ("llama-7b", ("budget.cost=100",), r"budget\.cost = 100, which is", "larger budget.cost"),
        ("llama-7b", ("budget.devices=1000000",), "1,000,000 data-parallel ranks, more ranks", r"set budget\.devices=1024"),
        ("llama-7b", ("budget.devices=63",), "63 data-parallel ranks, which do not divide", r"set budget\.devices=64"),
        ("llama-7b", ("train.steps=10",), "train.tokens = 140,000,000,000, but train.steps = 10", r"train\.steps=33378"),
        ("llama-7b", ("train.warmup_steps=100000",), "100,000, but training has 33,378 steps", r"set train\.warmup_steps=667"),
        ("llama-7b", ("train.learning_rate=100",), "train.learning_rate = 100", ""),
        ("llama-7b", ("machine.device=gpu",), "machine.device = 'gpu': expected auto, cpu, cuda", ""),
        ("llama-7b", ("budget.parameters=1e9",), r"budget\.parameters = 1e\+09 and model\.hidden_size = 4096", "leave one"),
    ],
)  # fmt: skip
def test_wish_contradicts(name, sets, message, hint):
    with pytest.raises(UserError, match=message) as caught:
        plan(name, *sets)
    assert re.search(hint, caught.value.hint or "")


def test_absurdly_many_passes():
    with pytest.raises(
        UserError, match=r"140 billion tokens, but the text has about 2 million: 69,999 passes over it"
    ) as caught:
        plan("llama-7b", data_tokens=2_000_000)
    assert "train.tokens=8000000 for 4 passes" in (caught.value.hint or "")
    assert plan("llama-7b", data_tokens=140_000_000_000 // MAX_PASSES + 1)


@pytest.mark.parametrize(
    "sets",
    [
        ("model.context_length=1000000", "train.batch_tokens=64000000"),
        ("budget.devices=1", "train.tokens=1000000000", "train.warmup_steps=2"),
    ],
)  # fmt: skip
def test_the_hint_of_a_training_that_does_not_fit_fits(sets):
    with pytest.raises(UserError, match="training needs") as caught:
        plan("llama-7b", *sets)
    knobs = re.findall(r"([a-z_.]+)=([\w-]+)", caught.value.hint or "")
    assert plan("llama-7b", *sets, *(f"{name}={value}" for name, value in knobs)).memory is not None


@pytest.mark.parametrize(
    ("budget", "train", "parameters"),
    [
        ({"parameters": 1.3e9}, {}, 1.3e9),
        ({"compute": 6 * 3e9 * 60e9}, {}, 3e9),
        ({}, {"tokens": 26_000_000_000}, 1.3e9),
        ({"cost": 2_000.0, "price_per_hour": 2.0}, {}, 3e9),
    ],
)
def test_any_budget_sets_the_size(budget, train, parameters):
    values = {"name": "x", "tokenizer": {"vocab_size": 32_000}, "model": {"context_length": 2048}, "train": train}
    planned = derive(parse_recipe(values | {"budget": {"hardware": "h100", "devices": 8} | budget}))
    assert planned.parameters is not None
    assert planned.parameters.active == pytest.approx(parameters, rel=0.25)
    assert planned.summary()["tokens_per_parameter"] == pytest.approx(20, rel=0.45)  # widths are discrete
    if "cost" in budget:
        assert 0.8 * budget["cost"] < planned.summary()["cost"] < 1.02 * budget["cost"]
    assert derive(planned.recipe.model_copy(update={"budget": planned.recipe.budget.model_copy(update={
        "parameters": None, "compute": None})})).recipe.train == planned.recipe.train  # fmt: skip


def test_total_parameters_make_a_mixture():
    values = {"name": "x", "tokenizer": {"vocab_size": 32_000}, "model": {"context_length": 2048}, "train": {}}
    budget = {"hardware": "h100", "devices": 8, "parameters": 1e9, "total_parameters": 4e9}
    planned = derive(parse_recipe(values | {"budget": budget}))
    assert planned.parameters is not None
    assert planned.parameters.total == pytest.approx(4e9, rel=0.2)
    scaling = summarize_scaling(planned)
    assert scaling is not None
    assert planned.parameters.active < scaling["effective_parameters"] < planned.parameters.total


def test_64_accelerators_for_a_month_read_20_tokens_per_parameter():
    values = {"name": "x", "tokenizer": {"vocab_size": 32_000}, "model": {"context_length": 2048}, "train": {}}
    budget = {"hardware": "a100", "devices": 64, "hours": 720}
    planned = derive(parse_recipe(values | {"budget": budget}))
    assert planned.summary()["tokens_per_parameter"] == pytest.approx(20, rel=0.25)  # widths are discrete
    assert planned.seconds / 3600 == pytest.approx(720, rel=0.02)


def test_hours_depend_on_layout_checkpointing_and_precision():
    def hours(*sets: str) -> float:
        return plan("llama-7b", *sets).seconds

    plain = hours()
    assert hours("machine.activation_checkpointing=full") > 1.1 * plain
    assert hours("train.precision=float32") > 1.5 * plain
    assert plan("gpt2-124m", "train.precision=float8").seconds < 0.9 * plan("gpt2-124m").seconds
    assert hours("machine.layout.tensor=32") > 1.2 * plain
    pipeline = ("machine.layout.pipeline=8", "machine.micro_batch_size=8")
    assert hours(*pipeline) > 1.3 * hours("machine.layout.pipeline=8", "machine.micro_batch_size=1")


def test_a_run_on_many_devices_is_interrupted():
    times = [
        estimate_run_time(
            1.0, 10**6, 2**22, count, 7e9, evaluate_every=1000, checkpoint_seconds=600, machines=count // 8
        )
        for count in (8, 1024, 16_384)
    ]
    assert times[0].failures < times[1].failures < times[2].failures
    assert times[0].operations == 0 < times[1].operations
    assert [time.total for time in times] == sorted(time.total for time in times)
