"""ModelConfig: choices equal implementations, derived defaults, contradictions."""

from typing import get_args

import pytest

from groundup.artifacts.errors import UserError
from groundup.model.block import BLOCKS
from groundup.model.encoder import POOLINGS
from groundup.model.feed_forward import ACTIVATIONS
from groundup.model.moe import LOAD_BALANCERS, ROUTER_ACTIVATIONS
from groundup.model.norm import NORMS
from groundup.model.position_encoding import POSITION_ENCODINGS
from groundup.model.rope import SCALINGS
from groundup.model.serialization import ARCHITECTURES
from groundup.recipe import ModelConfig, parse_recipe
from groundup.recipe.model_checks import GATED_ACTIVATIONS
from groundup.recipe.model_config import LayerType, MoEConfig, PartialModelConfig, RopeScalingConfig


@pytest.mark.parametrize(
    ("model", "knob", "parts"),
    [
        (ModelConfig, "architecture", ARCHITECTURES),
        (ModelConfig, "norm", NORMS),
        (ModelConfig, "norm_placement", BLOCKS),
        (ModelConfig, "position_embedding", POSITION_ENCODINGS),
        (ModelConfig, "feed_forward", {*ACTIVATIONS, "swiglu_clamped", "xielu"}),
        (ModelConfig, "pooling", POOLINGS),
        (RopeScalingConfig, "method", SCALINGS),
        (MoEConfig, "router_activation", ROUTER_ACTIVATIONS),
        (MoEConfig, "load_balancing", LOAD_BALANCERS),
    ],
)
def test_choices_equal_implementations(model, knob, parts):
    assert set(get_args(model.model_fields[knob].annotation)) == set(parts)


def test_gated_activations_are_activations():
    assert set(GATED_ACTIVATIONS) < {*ACTIVATIONS, "swiglu_clamped"}


def test_derived_defaults(config):
    filled = ModelConfig(vocab_size=10, hidden_size=96, num_layers=1, num_heads=6)
    assert (filled.num_kv_heads, filled.head_dim, filled.intermediate_size) == (6, 16, 256)
    plain = ModelConfig(vocab_size=10, hidden_size=96, num_layers=1, num_heads=6, feed_forward="gelu")
    assert plain.intermediate_size == 4 * 96
    assert config(moe={"num_experts": 2, "experts_per_token": 1}).moe.intermediate_size == config().intermediate_size
    assert config(architecture="encoder_decoder").num_encoder_layers == config().num_layers


def test_layer_types_repeat_the_pattern(config):
    made = config(num_layers=5, sliding_window=4, attention_pattern=("local", "local", "global"))
    assert made.layer_types == ("local", "local", "global", "local", "local")
    assert {*made.layer_types, "linear"} == set(get_args(LayerType))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"head_dim": None, "num_heads": 5}, "hidden_size = 24 is not divisible by num_heads = 5"),
        ({"num_heads": 6, "num_kv_heads": 4}, "num_heads = 6 is not divisible by num_kv_heads = 4"),
        ({"head_dim": 7}, "head_dim = 7 is odd"),
        ({"attention_pattern": ("local",)}, "need sliding_window"),
        ({"attention_sinks": True, "attention_softcap": 5.0}, "attention_softcap = 5.0 with attention_sinks"),
        ({"feed_forward": "gelu", "moe": {"num_experts": 2, "experts_per_token": 1}}, "with moe, expected one of"),
        ({"moe": {"num_experts": 2, "experts_per_token": 3}}, "expected at most num_experts = 2"),
        ({"architecture": "encoder_decoder", "norm_placement": "sandwich"}, "norm_placement = 'sandwich'"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"norm": "batchnorm"}, "norm"),
        ({"hidden_sizes": 3}, "hidden_sizes"),
    ],
)
def test_contradictions_are_refused(config, knobs, message):
    with pytest.raises(UserError, match=message):
        config(**knobs)


def test_config_round_trips_through_json_and_recipe(decoder_config):
    assert ModelConfig.model_validate_json(decoder_config.model_dump_json(exclude_none=True)) == decoder_config
    section = PartialModelConfig(**decoder_config.model_dump())
    assert ModelConfig(**section.model_dump(exclude_none=True)) == decoder_config


def test_recipe_overrides_of_the_model():
    recipe = parse_recipe(
        {"name": "r", "model": {"qk_norm": True, "moe": {"num_experts": 4, "experts_per_token": 2}}},
        ["model.rope_scaling.method=linear", "model.rope_scaling.factor=2"],
    )
    assert recipe.model.moe.num_experts == 4
    assert recipe.model.rope_scaling.factor == 2
    with pytest.raises(UserError, match=r"unknown knob model\.moe\.experts"):
        parse_recipe({"name": "r", "model": {"moe": {"num_experts": 4, "experts_per_token": 2, "experts": 3}}})
