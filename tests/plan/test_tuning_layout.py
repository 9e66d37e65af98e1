"""Devices of the stages that tune a model: what the plan says, and what it refuses."""

import pytest

from groundup.artifacts.errors import UserError
from groundup.plan.layout.tuning_layout import check_tuning_layout, describe_tuning_devices, tuning_layout
from groundup.recipe import parse_recipe
from groundup.recipe.layout_config import LayoutConfig

CHATS = {"conversations": [{"name": "a", "kind": "messages", "path": "a.jsonl"}]}
PAIRS = {"task": "embedding", "examples": [{"name": "a", "kind": "pairs", "path": "a.jsonl"}]}


def recipe(finetune=CHATS, train=None, **machine):
    values = {"name": "x", "machine": machine, "finetune": finetune}
    return parse_recipe(values | ({"train": train} if train is not None else {"base": {"model": "folder"}}))


@pytest.mark.parametrize(
    ("finetune", "machine", "message"),
    [
        (CHATS, {"layout": {"tensor": 2}}, "machine.layout.tensor = 2 with [finetune]: a matrix and its adapter"),
        (CHATS, {"layout": {"pipeline": 2}}, "machine.layout.pipeline = 2 with [finetune]: "),
        (CHATS, {"devices": 2, "layout": {"zero_stage": 1}}, "machine.layout.zero_stage = 1 with [finetune]: needs Deep"),
        (CHATS, {"devices": 3, "layout": {"replicate": 2}}, "machine.layout: replicate 2 = 2 devices, expected 3"),
        (PAIRS, {"devices": 2}, "machine.devices = 2 with [finetune]: a text is compared with all others of its batch"),
    ],
)  # fmt: skip
def test_layouts_that_tuning_has_not_are_refused(finetune, machine, message):
    with pytest.raises(UserError) as error:
        check_tuning_layout(recipe(finetune, **machine), "finetune")
    assert error.value.message.startswith(message)


def test_layout_of_pretraining_gives_its_devices_to_rows():
    made = recipe(train={}, layout={"tensor": 2, "replicate": 2})
    check_tuning_layout(made, "finetune")
    assert dict(describe_tuning_devices(made)) == {
        "finetune": "4 devices, each with its part of every batch; weights in 2 shards, 2 copies; "
        "machine.layout.tensor: for pretraining"
    }
    assert tuning_layout(LayoutConfig(tensor=2, replicate=2), 1).num_devices == 1  # of a rank that computes alone


def test_one_device_says_nothing_and_a_stage_on_one_of_two_why():
    assert dict(describe_tuning_devices(recipe())) == {}
    found = dict(describe_tuning_devices(recipe(PAIRS, train={}, devices=2)))
    assert found == {"finetune": "one of 2 devices: a text is compared with all others of its batch"}
