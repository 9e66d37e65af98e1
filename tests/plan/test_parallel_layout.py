"""Parallel layouts: derivation and checks."""

from typing import Any

import pytest

from groundup.artifacts.errors import UserError
from groundup.plan import derive
from groundup.plan.layout.parallel_layout import check_layout, complete_layout
from groundup.recipe import ModelConfig, parse_recipe
from groundup.recipe.layout_config import LayoutConfig
from groundup.recipe.train_config import TrainConfig

MODEL = {
    "vocab_size": 64, "hidden_size": 48, "num_layers": 4, "num_heads": 6, "num_kv_heads": 2, "intermediate_size": 96,
}  # fmt: skip
EXPERTS = {"moe": {"num_experts": 6, "experts_per_token": 2}}

LATENT = {"num_kv_heads": 6, "latent_attention": {"kv_rank": 16, "rope_head_dim": 4, "value_head_dim": 8}}


def test_shard_axis_is_derived():
    assert complete_layout(LayoutConfig(), 8).shard == 8
    assert complete_layout(LayoutConfig(tensor=2, pipeline=2), 8).shard == 2
    assert complete_layout(LayoutConfig(replicate=4, shard=2), 8) == LayoutConfig(replicate=4, shard=2)
    assert complete_layout(LayoutConfig(), 1).shard == 1


@pytest.mark.parametrize(
    ("layout", "devices"), [({"tensor": 3}, 8), ({"shard": 4}, 8), ({"tensor": 2}, 1), ({"pipeline": 16}, 8)]
)
def test_axes_must_multiply_to_the_devices(layout, devices):
    with pytest.raises(UserError, match=f"devices, expected {devices}"):
        complete_layout(LayoutConfig(**layout), devices)


@pytest.mark.parametrize(
    ("layout", "model", "train", "words"),
    [
        ({"tensor": 4, "shard": 1}, {}, {}, "tensor = 4 does not divide model.num_heads = 6"),
        ({"tensor": 6, "shard": 1}, {"vocab_size": 15}, {}, "leaves a device without any of model.vocab_size = 15"),
        ({"tensor": 2, "shard": 5}, {}, {}, "expected a multiple of shard x context = 5"),
        ({"expert": 2, "shard": 2}, {}, {}, "without a mixture of experts"),
        ({"expert": 4, "shard": 4}, EXPERTS, {}, "expert = 4 does not divide model.moe.num_experts = 6"),
        ({"expert": 3, "shard": 4}, EXPERTS, {}, "expert = 3 does not divide shard x context = 4"),
        ({"pipeline": 8, "shard": 1}, {}, {}, "8 pipeline stages, expected at most model.num_layers = 4"),
        ({"pipeline": 4, "shard": 1, "pipeline_schedule": "zero-bubble-v"}, {}, {}, "8 pipeline stages"),
        ({"pipeline": 2, "shard": 1}, {"tie_embeddings": True}, {}, "tie_embeddings"),
        ({"pipeline": 2, "shard": 1}, {"architecture": "encoder_decoder"}, {}, "encoder_decoder: not supported"),
        (
            {"context": 2, "shard": 1},
            {"architecture": "encoder_decoder", "position_embedding": "sinusoidal"},
            {},
            "model.position_embedding = sinusoidal: not supported",
        ),
        (
            {"pipeline": 2, "shard": 2, "pipeline_schedule": "zero-bubble-v", "reshard_after_forward": True}, {}, {},
            "weight gradients would be wrong",
        ),
        ({"context": 4, "shard": 1, "context_method": "ulysses"}, {}, {}, "does not divide query heads"),
        ({"context": 2, "shard": 1, "context_method": "ring"}, {"attention_softcap": 5.0}, {}, "not supported by ring attention"),
        ({"context": 4, "shard": 1}, {}, {"sequence_length": 36}, "multiple of 8"),
        ({"tensor": 2, "shard": 1}, {}, {"sequence_length": 33}, "multiple of 2"),
        ({"tensor": 2, "shard": 1}, LATENT, {}, "tensor = 2 with model.latent_attention: not supported"),
        ({"context": 2, "shard": 1}, LATENT, {}, "context = 2 with model.latent_attention: not supported"),
        ({"tensor": 2, "shard": 1}, {"attention_sinks": True}, {}, "tensor = 2 with model.attention_sinks: not supp"),
        ({"context": 2, "shard": 1}, {"attention_sinks": True}, {}, "context = 2 with model.attention_sinks: not supp"),
        (
            {"expert": 2, "shard": 2}, {"moe": {**EXPERTS["moe"], "expert_bias": True}}, {},
            "expert = 2 with model.moe.expert_bias: not supported",
        ),
        (
            {"pipeline": 4, "shard": 2}, {}, {"sequence_length": 32, "batch_tokens": 128},
            "2 sequences per pipeline, expected at least 4",
        ),
    ],
)  # fmt: skip
def test_unsupported_layouts(layout, model, train, words):
    config: Any = ModelConfig(**(MODEL | model))
    with pytest.raises(UserError, match=words) as error:
        check_layout(LayoutConfig(**layout), config, TrainConfig(**train))
    assert error.value.hint


def test_supported_layouts_pass():
    config = ModelConfig(**MODEL)
    for layout in ({"tensor": 2}, {"context": 2}, {"pipeline": 2, "pipeline_schedule": "dualpipe-v"}, {"replicate": 2}):
        check_layout(
            complete_layout(LayoutConfig(**layout), 2), config, TrainConfig(sequence_length=32, batch_tokens=256)
        )


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ({"tensor": 3}, "axes|devices"),
        (
            {"pipeline": 2, "pipeline_schedule": "zero-bubble-v", "reshard_after_forward": True},
            "weight gradients would be wrong",
        ),
    ],
)
def test_derive_checks_the_layout(layout, words):
    values: dict[str, Any] = {"name": "toy", "budget": {"devices": 4}, "train": {"learning_rate": 1e-3}}
    values["model"] = MODEL | {"context_length": 32, "tie_embeddings": False}
    derive(parse_recipe(values | {"machine": {"layout": {"tensor": 2}}}))
    with pytest.raises(UserError, match=words):
        derive(parse_recipe(values | {"machine": {"layout": layout}}))


def test_zero_bubble_excludes_selective_checkpointing():
    values: dict[str, Any] = {"name": "toy", "budget": {"devices": 2}, "train": {"learning_rate": 1e-3}}
    values["model"] = MODEL | {"context_length": 32, "tie_embeddings": False}
    machine = {"layout": {"pipeline": 2, "pipeline_schedule": "zero-bubble-v"}, "activation_checkpointing": "full"}
    derive(parse_recipe(values | {"machine": machine}))
    with pytest.raises(UserError, match=r"selective.*second backward pass"):
        derive(parse_recipe(values | {"machine": machine | {"activation_checkpointing": "selective"}}))
