"""The blueprint of a plan: its facts against the plan, its drawing against the built model, its pages."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from groundup.artifacts.errors import UserError
from groundup.plan import DEVICES, derive
from groundup.plan.cost.plan_alternatives import budget_alternatives, hardware_alternatives, unique_tokens_missing
from groundup.plan.cost.run_cost import BUILT_IN_PRICES
from groundup.plan.memory.deployment_estimate import FORMATS, cache_bytes_per_text, estimate_deployment, weight_bytes
from groundup.plan.memory.storage_estimate import estimate_storage
from groundup.plan.scaling.expected_loss import SMALL_LAW, expected_loss, is_published_range
from groundup.plan.scaling.scaling_summary import is_next_token, summarize_scaling
from groundup.plan.shape.parameter_count import count_parameters
from groundup.plan.time.restart_estimate import estimate_restarts
from groundup.recipe import ModelConfig, load_recipe
from groundup.recipe.model_config import MoEConfig
from groundup.report import formatting
from groundup.report.blueprint.blueprint_facts import blueprint_facts
from groundup.report.blueprint.model_drawing import draw_model
from groundup.report.plan_document import plan_document, write_plan_pdf

RECIPES = Path(__file__).parents[2] / "recipes"
SOURCES = [{"name": "crawl", "kind": "jsonl", "place": "data/*.jsonl", "bytes": 8e6}]


def planned(name: str, *sets: str, data_tokens: int | None = None) -> tuple[Any, Any, dict[str, Any]]:
    recipe = load_recipe(RECIPES / f"{name}.toml", list(sets))
    plan = derive(recipe, data_tokens)
    scaling = {"scaling": summarize_scaling(plan)} if is_next_token(plan) else {}
    return recipe, plan, plan.summary() | scaling | {"blueprint": blueprint_facts(recipe, plan, SOURCES, None)}


@pytest.fixture(scope="module")
def llama() -> tuple[Any, Any, dict[str, Any]]:
    return planned("llama-7b", data_tokens=20_000_000_000)


def test_pdf_is_reproducible_and_has_every_section(tmp_path: Path, llama: tuple[Any, Any, dict[str, Any]]):
    pages = [write_plan_pdf(llama[2], tmp_path / "plan.pdf") or (tmp_path / "plan.pdf").read_bytes() for _ in range(2)]
    assert pages[0].startswith(b"%PDF-")
    assert pages[0] == pages[1]
    titles = [section["title"] for section in plan_document(llama[2])["sections"]]
    assert titles == [
        "Goal",
        "Model",
        "Data and storage",
        "Tokenizer",
        "Scaling",
        "Training",
        "Memory and layout",
        "Timeline",
        "Cost",
        "Risks and restarts",
        "Alternatives",
        "Evaluation",
        "Deployment",
        "Commands",
        "Recipe",
    ]
    with pytest.raises(UserError, match=r"no \[train\]"):
        write_plan_pdf({"name": "data-only"}, tmp_path / "none.pdf")


def test_missing_text_is_told(llama: tuple[Any, Any, dict[str, Any]]):
    """140 billion tokens, read four times at most: 35 billion are needed, and 20 billion are there."""
    assert unique_tokens_missing(140e9, 20e9, 4) == 15e9
    assert unique_tokens_missing(80e9, 20e9, 4) == 0
    assert llama[2]["blueprint"]["tokens_missing"] == pytest.approx(15e9, rel=1e-3)
    text = json.dumps(plan_document(llama[2]), ensure_ascii=False)
    assert f"{formatting.count(llama[2]['blueprint']['tokens_missing'])} tokens are missing" in text


def test_alternatives_are_plans_of_their_own(llama: tuple[Any, Any, dict[str, Any]]):
    recipe, plan, _ = llama
    half, same, double = budget_alternatives(recipe, plan, None)
    assert (same.hours, same.parameters) == (plan.seconds / 3600, plan.parameters.total)
    assert half.tokens == pytest.approx(same.tokens / 2, rel=0.01)
    assert double.hours == pytest.approx(2 * same.hours, rel=0.02)
    others = hardware_alternatives(plan, ("a100", "b200"))
    assert [row.cost for row in others] == sorted(row.cost for row in others)
    slower, faster = ({row.hardware: row for row in others}[name] for name in ("a100", "b200"))
    assert faster.hours < same.hours < slower.hours
    assert slower.parameters == faster.parameters == plan.parameters.total


@pytest.mark.parametrize(
    "budget", ["budget.cost=1000", "budget.compute=1e21", "budget.hours=10", "budget.parameters=1e9"]
)
def test_alternatives_of_any_budget(budget: str, tmp_path: Path):
    """Twice the money is not a plan of twice the tokens for the same money; a size is not set twice on other hardware."""
    (tmp_path / "open.toml").write_text(
        'name = "open"\n[budget]\nhardware = "h100"\ndevices = 8\n[model]\nvocab_size = 32000\n[train]\n'
    )
    recipe = load_recipe(tmp_path / "open.toml", [budget])
    plan = derive(recipe)
    half, same, double = budget_alternatives(recipe, plan, None)
    assert half.cost == pytest.approx(same.cost / 2, rel=0.05)
    assert double.cost == pytest.approx(2 * same.cost, rel=0.05)
    assert hardware_alternatives(plan, ("a100",))[0].parameters == same.parameters


def test_prices_of_the_recipe_hold_for_alternatives_and_serving(tmp_path: Path):
    text = BUILT_IN_PRICES.read_text(encoding="utf-8").replace('currency = "USD"', 'currency = "XYZ"')
    text = re.sub(r"(?m)^a100 = \{ price = [\d.]+", "a100 = { price = 77", text)
    (tmp_path / "prices.toml").write_text(text, encoding="utf-8")
    _, plan, summary = planned("llama-7b", f"budget.prices={tmp_path / 'prices.toml'}", "budget.hardware=a100")
    facts = summary["blueprint"]
    assert facts["cost"]["currency"] == "XYZ"
    [row] = hardware_alternatives(plan, ("h100",))
    recipe, _, _ = planned("llama-7b", f"budget.prices={tmp_path / 'prices.toml'}")
    [dear] = hardware_alternatives(derive(recipe), ("a100",))
    assert dear.cost == pytest.approx(77 * dear.devices * dear.hours)
    a100 = next(each for each in facts["deployments"] if each["device"] == DEVICES["a100"].label)
    assert row.cost > 0
    assert a100["cost_per_million"] is None or a100["cost_per_million"] > 0.1


def test_the_fastest_layouts_are_listed_with_what_the_others_lose(llama: tuple[Any, Any, dict[str, Any]]):
    layouts = llama[2]["blueprint"]["layouts"]
    assert layouts["own_ratio"] >= 1 - 1e-9
    assert layouts["rows"][0]["lost"] == "the fastest"
    assert all(row["lost"] for row in layouts["rows"])
    assert "The fastest of" in json.dumps(plan_document(llama[2]), ensure_ascii=False)
    assert planned("llama-1b", "budget.devices=1")[2]["blueprint"]["layouts"] is None


def test_an_encoder_has_no_loss_of_next_tokens():
    _, _, summary = planned("encoder")
    document = plan_document(summary)
    assert "Scaling" not in [each["title"] for each in document["sections"]]
    assert "Loss" not in [name for name, _ in document["cover"]["card"]]


def test_a_model_that_does_not_fit_gets_more_devices():
    _, plan, _ = planned("llama-1b", "budget.devices=8")
    [row] = hardware_alternatives(plan, ("rtx-3060",))
    assert row.devices >= 8
    assert row.memory_bytes <= 0.9 * DEVICES["rtx-3060"].memory_bytes


def test_checkpoints_cost_least_at_the_best_interval_and_are_part_of_the_planned_time():
    def restarts(minutes: float, devices: int = 64) -> Any:
        _, plan, facts = planned(
            "llama-7b", f"machine.checkpoint_every_minutes={minutes}", f"budget.devices={devices}", "budget.hours=5e4"
        )
        found = estimate_restarts(plan)
        run = plan.run_time
        assert plan.seconds == run.steps + run.loader + run.evaluation + run.checkpoints + run.restarts + run.operations
        assert found.overhead == (run.checkpoints + run.restarts) / run.steps
        assert facts["blueprint"]["hours_range"][1] == facts["blueprint"]["hours"] * facts["blueprint"]["time_range"][1]
        return found

    best = restarts(1).best_interval_seconds / 60
    assert restarts(best).overhead < min(restarts(best / 3).overhead, restarts(3 * best).overhead)
    assert restarts(1).warning() is None
    often = restarts(1, devices=8)  # 84 GB a minute are more than one machine writes
    assert often.waiting > 0.2
    assert "set machine.checkpoint_every_minutes=" in (often.warning() or "")
    minutes = float((often.warning() or "").rpartition("=")[2])
    assert restarts(minutes, devices=8).warning() is None


def test_storage_counts_ids_of_two_bytes_below_65536_entries():
    _, small, _ = planned("llama-7b", "tokenizer.vocab_size=65536")
    _, large, _ = planned("llama-7b", "tokenizer.vocab_size=65537")
    tokens = small.recipe.train.tokens
    assert (estimate_storage(small).tokens, estimate_storage(large).tokens) == (2 * tokens, 4 * tokens)
    assert estimate_storage(small, 5e9).text == 5e9


def test_serving_cost_follows_weights_cache_and_price():
    config = ModelConfig(
        vocab_size=32_000, hidden_size=4096, num_layers=32, num_heads=32, intermediate_size=11_008, context_length=4096
    )
    counts = count_parameters(config)
    forms = {form.name: form for form in FORMATS}
    assert weight_bytes(counts, forms["bfloat16"]) == 2 * counts.total
    assert 3.7e9 < weight_bytes(counts, forms["GPTQ or AWQ, 4 bits"]) < 4.0e9  # Llama-2-7B-GPTQ has 3.9 GB
    assert cache_bytes_per_text(config) == 4096 * 524_288
    whole, quarter = (
        estimate_deployment(config, counts, forms[name], DEVICES["rtx-4090"], 0.4)
        for name in ("bfloat16", "GPTQ or AWQ, 4 bits")
    )
    assert quarter.users > whole.users > 0
    assert quarter.user_tokens_per_second > 2.5 * whole.user_tokens_per_second
    assert quarter.cost_per_million == pytest.approx(0.4 / 3600 / quarter.tokens_per_second * 1e6)
    assert estimate_deployment(config, counts, forms["float32"], DEVICES["rtx-4090"], 0.4).users == 0


def test_small_law_meets_its_trainings_and_the_published_laws():
    for size, tokens, measured in (
        (422_528, 108_544, 3.237),
        (3_886_336, 1_013_760, 2.355),
        (5_869_568, 1_531_904, 2.164),
    ):
        assert SMALL_LAW.loss(size, tokens) == pytest.approx(measured, rel=0.025)
    assert not is_published_range(39e6, 1e9)
    below, above = expected_loss(39.9e6, 800e6), expected_loss(40.1e6, 800e6)
    assert below["loss"] == pytest.approx(above["loss"], rel=0.06)
    assert expected_loss(5e6, 4e6, unique_tokens=1e6)["loss"] > expected_loss(5e6, 4e6)["loss"]


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(vocab_size=500, hidden_size=64, num_layers=2, num_heads=4),
        ModelConfig(
            vocab_size=500,
            hidden_size=64,
            num_layers=3,
            num_heads=4,
            num_kv_heads=2,
            qk_norm=True,
            norm_placement="sandwich",
            moe=MoEConfig(num_experts=8, experts_per_token=2, intermediate_size=32, num_dense_layers=1),
        ),
        ModelConfig(
            architecture="encoder_decoder",
            vocab_size=500,
            hidden_size=64,
            num_layers=2,
            num_heads=4,
            position_embedding="relative",
        ),
        ModelConfig(
            architecture="encoder", vocab_size=500, hidden_size=64, num_layers=2, num_heads=4, norm_placement="post"
        ),
    ],
    ids=["dense", "experts", "encoder-decoder", "post-norm"],
)
def test_drawing_has_the_shapes_of_the_built_model(config: ModelConfig):
    from torch import device

    from groundup.model import build_model

    with device("meta"):
        model = build_model(config)
    svg, text = draw_model(config)
    assert svg.startswith("<?xml")
    last = max(name for name in dict(model.named_parameters()) if re.search(r"blocks\.\d+\.", name))
    block = last.partition("blocks.")[0] + f"blocks.{config.num_layers - 1}."
    for name, weight in model.named_parameters():
        if name.startswith(block) and weight.ndim == 2:
            assert f"{weight.shape[1]:,} → {weight.shape[0]:,}" in text, name
    assert f"{config.num_layers} × " in text
