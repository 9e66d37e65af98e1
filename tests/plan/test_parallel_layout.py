"""Layouts that cannot be are refused before anything starts, with what was found, expected and a hint."""

from typing import Any

import pytest

from groundup.artifacts.errors import UserError
from groundup.plan import derive
from groundup.plan.parallel_layout import check_layout, complete_layout
from groundup.recipe import ModelConfig, parse_recipe
from groundup.recipe.layout_config import LayoutConfig
from groundup.recipe.train_config import TrainConfig

MODEL = {
    "vocab_size": 64, "hidden_size": 48, "num_layers": 4, "num_heads": 6, "num_kv_heads": 2, "intermediate_size": 96,
}  # fmt: skip
EXPERTS = {"moe": {"num_experts": 6, "experts_per_token": 2}}


def test_the_shard_axis_takes_what_is_left():
    assert complete_layout(LayoutConfig(), 8).shard == 8
    assert complete_layout(LayoutConfig(tensor=2, pipeline=2), 8).shard == 2
    assert complete_layout(LayoutConfig(replicate=4, shard=2), 8) == LayoutConfig(replicate=4, shard=2)
    assert complete_layout(LayoutConfig(), 1).shard == 1


@pytest.mark.parametrize(
    ("layout", "devices"), [({"tensor": 3}, 8), ({"shard": 4}, 8), ({"tensor": 2}, 1), ({"pipeline": 16}, 8)]
)
def test_a_grid_that_does_not_multiply_is_refused(layout, devices):
    with pytest.raises(UserError, match=f"and there are {devices}"):
        complete_layout(LayoutConfig(**layout), devices)


@pytest.mark.parametrize(
    ("layout", "model", "train", "words"),
    [
        ({"tensor": 4, "shard": 1}, {}, {}, "tensor = 4 does not divide model.num_heads = 6"),
        ({"tensor": 3, "shard": 1}, {}, {}, "tensor = 3 does not divide model.vocab_size = 64"),
        ({"tensor": 2, "shard": 5}, {}, {}, "expected a multiple of shard x context = 5"),
        ({"expert": 2, "shard": 2}, {}, {}, "no mixture of experts"),
        ({"expert": 4, "shard": 4}, EXPERTS, {}, "expert = 4 does not divide model.moe.num_experts = 6"),
        ({"expert": 3, "shard": 4}, EXPERTS, {}, "expert = 3 does not divide shard x context = 4"),
        ({"pipeline": 8, "shard": 1}, {}, {}, "8 pipeline stages, and model.num_layers = 4"),
        ({"pipeline": 4, "shard": 1, "pipeline_schedule": "zero-bubble-v"}, {}, {}, "8 pipeline stages"),
        ({"pipeline": 2, "shard": 1}, {"tie_embeddings": True}, {}, "tie_embeddings"),
        ({"pipeline": 2, "shard": 1}, {"architecture": "encoder_decoder"}, {}, "two stacks"),
        (
            {"pipeline": 2, "shard": 2, "pipeline_schedule": "zero-bubble-v", "reshard_after_forward": True}, {}, {},
            "late weight gradients would be wrong",
        ),
        ({"context": 4, "shard": 1, "context_method": "ulysses"}, {}, {}, "does not divide query heads"),
        ({"context": 2, "shard": 1, "context_method": "ring"}, {"attention_softcap": 5.0}, {}, "plain products"),
        ({"context": 4, "shard": 1}, {}, {"sequence_length": 36}, "cuts a sequence into 8 equal parts"),
        ({"tensor": 2, "shard": 1}, {}, {"sequence_length": 33}, "cuts a sequence into 2 equal parts"),
        (
            {"pipeline": 4, "shard": 2}, {}, {"sequence_length": 32, "batch_tokens": 128},
            "2 sequences for each pipeline of 4 stages",
        ),
    ],
)  # fmt: skip
def test_what_does_not_divide_or_goes_wrong_is_refused(layout, model, train, words):
    config: Any = ModelConfig(**(MODEL | model))
    with pytest.raises(UserError, match=words) as error:
        check_layout(LayoutConfig(**layout), config, TrainConfig(**train))
    assert error.value.hint


def test_layouts_that_work_are_not_refused():
    config = ModelConfig(**MODEL)
    for layout in (
        {"tensor": 2},
        {"context": 2},
        {"pipeline": 2, "pipeline_schedule": "dualpipe-v"},
        {"replicate": 2},
    ):
        check_layout(
            complete_layout(LayoutConfig(**layout), 2),
            config,
            TrainConfig(sequence_length=32, batch_tokens=256),
        )


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ({"tensor": 3}, "axes|devices"),
        ({"pipeline": 2, "pipeline_schedule": "zero-bubble-v", "reshard_after_forward": True}, "late weight"),
    ],
)
def test_the_plan_itself_refuses(layout, words):
    values: dict[str, Any] = {"name": "toy", "budget": {"devices": 4}, "train": {"learning_rate": 1e-3}}
    values["model"] = MODEL | {"context_length": 32, "tie_embeddings": False}
    derive(parse_recipe(values | {"machine": {"layout": {"tensor": 2}}}))
    with pytest.raises(UserError, match=words):
        derive(parse_recipe(values | {"machine": {"layout": layout}}))


def test_late_weight_gradients_go_back_twice_and_selective_checkpoints_do_not():
    values: dict[str, Any] = {"name": "toy", "budget": {"devices": 2}, "train": {"learning_rate": 1e-3}}
    values["model"] = MODEL | {"context_length": 32, "tie_embeddings": False}
    machine = {
        "layout": {"pipeline": 2, "pipeline_schedule": "zero-bubble-v"},
        "activation_checkpointing": "full",
    }
    derive(parse_recipe(values | {"machine": machine}))
    with pytest.raises(UserError, match=r"selective.*a second time"):
        derive(parse_recipe(values | {"machine": machine | {"activation_checkpointing": "selective"}}))
