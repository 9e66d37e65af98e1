"""Plans against published models and the built model."""

import math

import pytest

from groundup.artifacts.errors import UserError
from groundup.plan import derive
from groundup.plan.derive import resolved_model_config
from groundup.plan.plan_table import format_plan
from groundup.plan.scaling import compute_optimal
from groundup.plan.shape.parameter_count import count_parameters, training_flops_per_token
from groundup.recipe import ModelConfig, parse_recipe


def plan_for(**tables):
    values = {"name": "x", "tokenizer": {"vocab_size": 32_000}, "train": {}, "model": {"context_length": 2048}}
    return derive(parse_recipe(values | tables))


def test_compute_optimal_size_of_7b():
    parameters, tokens = compute_optimal.compute_optimal_size(6 * 7e9 * 140e9)
    assert parameters == pytest.approx(7e9)
    assert tokens == pytest.approx(140e9)


def test_parameter_count_of_llama_7b():
    config = ModelConfig(
        vocab_size=32_000, hidden_size=4096, num_layers=32, num_heads=32, intermediate_size=11_008, context_length=2048
    )
    assert count_parameters(config).total == 6_738_415_616  # Touvron et al. 2023, and the published weights


def test_parameter_count_of_a_mixture_of_experts():
    from groundup.model import Decoder

    moe = {
        "num_experts": 4,
        "experts_per_token": 2,
        "intermediate_size": 32,
        "num_shared_experts": 1,
        "num_dense_layers": 1,
        "shared_expert_gate": True,
        "dense_layers": [2, 7],
    }
    config = ModelConfig(vocab_size=100, hidden_size=48, num_layers=4, num_heads=4, intermediate_size=80, moe=moe)  # pyright: ignore[reportArgumentType]
    counted = count_parameters(config)
    assert counted.total == sum(p.numel() for p in Decoder(config).parameters())
    assert counted.total - counted.active == 2 * 2 * 3 * 48 * 32  # two unused experts in two layers


def test_training_flops_of_encoder_decoder():
    from groundup.plan.shape.parameter_count import training_flops_per_token

    shape = {"vocab_size": 600, "hidden_size": 64, "num_layers": 3, "num_heads": 4}
    each = {
        kind: training_flops_per_token(ModelConfig(**shape, architecture=kind), 128)
        for kind in ("decoder", "encoder", "encoder_decoder")
    }
    assert each["encoder"] - each["decoder"] == 6 * 3 * 64 * 128
    assert 0.8 * each["encoder"] < each["encoder_decoder"] < 1.5 * each["encoder"]


def test_learning_rate_and_batch_of_deepseek():
    # DeepSeek LLM 2024, section 3.1: 1e20 operations are near the middle of their fit.
    assert compute_optimal.optimal_learning_rate(1e20) == pytest.approx(0.3118 * math.exp(-0.125 * math.log(1e20)))
    assert compute_optimal.optimal_batch_tokens(1e20) == pytest.approx(0.2920 * math.exp(0.3271 * math.log(1e20)))


@pytest.mark.parametrize(("hardware", "devices", "hours"), [("cpu-2", 1, 0.1), ("h100", 1, 24), ("h100", 64, 300)])
def test_plan_uses_the_budget(hardware, devices, hours):
    plan = plan_for(budget={"hardware": hardware, "devices": devices, "hours": hours})
    assert 0.8 * hours <= plan.seconds / 3600 <= 1.01 * hours
    train = plan.recipe.train
    assert train is not None
    assert train.steps * train.batch_tokens == train.tokens
    assert plan.total_flops == pytest.approx(
        train.tokens * training_flops_per_token(resolved_model_config(plan.recipe), 2048)
    )
    if hours > 1:  # tokens use up what discrete sizes leave
        assert plan.summary()["tokens_per_parameter"] >= 19.5


def test_derived_recipe_derives_to_itself():
    once = plan_for(budget={"hours": 0.2}).recipe
    assert derive(once).recipe == once


def test_set_knobs_stay():
    plan = plan_for(
        budget={}, model={"hidden_size": 64, "num_layers": 3, "num_heads": 4, "context_length": 128},
        train={"steps": 10, "batch_tokens": 1024, "learning_rate": 0.5},
    )  # fmt: skip
    config, train = resolved_model_config(plan.recipe), plan.recipe.train
    assert (config.hidden_size, config.num_layers, config.head_dim) == (64, 3, 16)
    assert train is not None
    assert (train.steps, train.tokens, train.learning_rate) == (10, 10_240, 0.5)


def test_batch_warmup_adds_steps():
    knobs = {"tokens": 1_024_000, "batch_tokens": 8192, "sequence_length": 256, "initial_batch_tokens": 2048}
    train = plan_for(budget={"hours": 0.1}, train=knobs).recipe.train
    assert train is not None
    assert train.batch_warmup_steps == 12  # a tenth of the 125 steps that full batches would take
    assert train.steps == 12 + (1_024_000 - 6 * 2048 - 6 * 4096) // 8192
    assert train.tokens == 6 * 2048 + 6 * 4096 + (train.steps - 12) * 8192
    with pytest.raises(UserError, match=r"train\.initial_batch_tokens = 3000: 8192 is not a power of two"):
        plan_for(budget={"hours": 0.1}, train=knobs | {"initial_batch_tokens": 3000})


def test_widths_divide_by_the_number_of_heads():
    config = resolved_model_config(plan_for(budget={"hours": 0.2}, model={"num_heads": 3}).recipe)
    assert config.num_heads == 3
    assert config.hidden_size % 6 == 0
    with pytest.raises(UserError, match="hidden_size = 64 is not divisible by num_heads = 3"):
        plan_for(budget={"hours": 0.2}, model={"hidden_size": 64, "num_heads": 3})
    with pytest.raises(UserError, match=r"model\.num_heads = 9999: divides no width"):
        plan_for(budget={"hours": 0.2}, model={"num_heads": 9999})


def test_errors():
    with pytest.raises(UserError, match="expected one of cpu-2"):
        plan_for(budget={"hardware": "abacus", "hours": 1})
    with pytest.raises(UserError, match="model size is not set"):
        plan_for(budget={})
    with pytest.raises(UserError, match=r"GB on each of 1 device"):
        plan_for(budget={"hardware": "rtx-4090"}, model={"hidden_size": 4096, "num_layers": 32})
    with pytest.raises(UserError, match=r"not divisible by train\.sequence_length"):
        plan_for(budget={"hours": 0.1}, train={"batch_tokens": 3000})
    with pytest.raises(UserError, match=r"expected at most model\.context_length"):
        plan_for(budget={"hours": 0.1}, train={"sequence_length": 4096})


def test_shards_over_devices():
    plan = plan_for(
        budget={"hardware": "h100", "devices": 8}, model={"hidden_size": 4096, "num_layers": 32, "context_length": 4096}
    )
    assert plan.layout.shard == 8
    assert plan.memory is not None
    assert plan.memory.total < 80e9


def test_plan_table():
    text = format_plan(
        plan_for(budget={"hardware": "h100", "devices": 64, "hours": 200, "price_per_hour": 2.0}).summary()
    )
    assert "billion" in text
    assert "days" in text
    assert "25,5" in text or "25,4" in text or "25,3" in text  # 64 x 200 h x 2
    assert "USD" in text
    assert "kg of CO2" in text


def test_the_table_names_every_parallel_axis():
    plan = plan_for(
        budget={"hardware": "h100", "devices": 16, "hours": 10.0}, machine={"layout": {"context": 4, "tensor": 2}}
    )
    assert "shard 2 x context 4 x tensor 2" in format_plan(plan.summary())


def plan_for_text(data_tokens, **train):
    recipe = {"name": "x", "budget": {"hours": 0.1}, "model": {"vocab_size": 4096}, "train": train}
    return derive(parse_recipe(recipe), data_tokens)


def test_little_text_is_read_four_times_at_most_in_less_time():
    free, limited = plan_for_text(None), plan_for_text(100_000)
    assert limited.data_limited
    assert not free.data_limited
    assert 0.9 * 400_000 < limited.recipe.train.tokens <= 400_000
    assert limited.parameters.total <= 10 * 100_000
    assert limited.seconds < 0.5 * free.seconds
    assert "more text will" in format_plan(limited.summary())


def test_enough_text_changes_nothing():
    free, enough = plan_for_text(None), plan_for_text(100_000_000)
    assert enough.recipe == free.recipe
    assert not enough.data_limited


def test_tokens_that_are_asked_for_are_kept():
    plan = plan_for_text(100_000, tokens=4_000_000)
    assert plan.recipe.train.tokens == pytest.approx(4_000_000, rel=0.01)
    assert plan.summary()["data"]["epochs"] == pytest.approx(40, rel=0.01)
    assert "read 40 times: a model learns little more" in format_plan(plan.summary())


@pytest.mark.parametrize(
    ("section", "knob", "value"),
    [
        ("budget", "hours", 1e300), ("budget", "tokens_per_parameter", 1e300),
        ("train", "initial_batch_tokens", 1_000_000_007), ("train", "initial_batch_tokens", 10**18),
    ],
)  # fmt: skip
def test_extreme_values_are_one_error(section, knob, value):
    tables = {"budget": {"hours": 1, "hardware": "h100"}, "train": {}}
    tables[section][knob] = value
    with pytest.raises(UserError, match=f"{section}.{knob}"):
        plan_for(**tables)


def test_repeated_text_keeps_the_best_weights_and_stops_early():
    knobs = {"budget": {"hours": 0.1}, "model": {"context_length": 256}, "tokenizer": {"vocab_size": 512}}

    def stopping(data_tokens, **train):
        derived = derive(parse_recipe({"name": "x", "train": train} | knobs), data_tokens).recipe.train
        return derived.keep_best_weights, derived.early_stopping_patience

    assert stopping(100_000) == (True, 5)
    assert stopping(None) == stopping(10**9) == (False, None)
    assert stopping(100_000, keep_best_weights=False) == (False, None)
    assert stopping(100_000, early_stopping_patience=2) == (True, 2)


def test_a_state_goes_on_into_the_next_document():
    """Before training, not at its first step."""
    from groundup.plan.checks.stage_support import check_objective
    from groundup.recipe.train_config import TrainConfig

    config = ModelConfig(vocab_size=64, hidden_size=32, num_layers=1, num_heads=4, head_dim=16, state_space={})
    check_objective(config, TrainConfig())
    with pytest.raises(UserError, match=r"train\.document_mask with model\.state_space"):
        check_objective(config, TrainConfig(document_mask=True))
