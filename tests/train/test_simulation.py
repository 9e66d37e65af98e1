"""Simulated memory and communication of one rank of 1,024 against the plan's formulas."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from groundup.plan.memory.memory_estimate import estimate_training_memory
from groundup.recipe import ModelConfig
from groundup.recipe.train_config import TrainConfig
from groundup.train.simulation import simulate_device

SMALL = {"vocab_size": 4096, "hidden_size": 128, "num_layers": 3, "num_heads": 4, "context_length": 256}
ROOT = Path(__file__).resolve().parents[2]


def simulation(recipe: str, *sets: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "groundup.cli", "plan", f"recipes/{recipe}.toml", "--json", "--simulate"]
    command += [word for knob in sets for word in ("--set", knob)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["simulation"]


def check(found: dict[str, Any], memory: float, sent: float) -> None:
    """Up to what padding adds where a dimension does not divide by a thousand."""
    for both in found["memory"].values():
        assert both["simulated"] == pytest.approx(both["planned"], rel=memory)
    for both in found["sent"].values():
        assert both["simulated"] == pytest.approx(both["planned"], rel=sent)


@pytest.mark.parametrize(
    ("knobs", "optimizer", "checkpointing"),
    [
        ({}, "adamw", "none"),
        ({"qk_norm": True, "norm_placement": "sandwich", "tie_embeddings": True}, "adamw", "none"),
        ({"feed_forward": "gelu", "num_kv_heads": 2}, "muon", "full"),
    ],
)
def test_one_device_needs_what_is_planned(knobs, optimizer, checkpointing):
    config = ModelConfig(**SMALL | knobs)
    train = TrainConfig(batch_tokens=1024, sequence_length=256, optimizer=optimizer)
    planned = estimate_training_memory(config, 256, 4, activation_checkpointing=checkpointing, train=train)
    simulated = simulate_device(config, train, 4, 256, checkpointing)
    assert planned.total - planned.process - planned.slack == pytest.approx(simulated["peak"], rel=0.05)


def test_a_small_model_on_a_thousand_devices():
    small = ("model.num_layers=2", "train.batch_tokens=1048576", "budget.devices=1024")
    found = simulation("gpt2-124m", *small)
    assert found["devices"] == 1024
    check(found, memory=0.4, sent=0.35)  # 768 over 1024 devices: a third of what is sent is padding
    (data,) = found["sent"].values()
    assert data["simulated"] > data["planned"]


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", ["none", "selective", "full"])
@pytest.mark.parametrize("tensor", [1, 8])
def test_seven_billion_parameters_on_a_thousand_devices(checkpointing, tensor):
    knobs = ["budget.devices=1024", "machine.micro_batch_size=1", f"machine.layout.tensor={tensor}"]
    if checkpointing != "none":
        knobs.append(f"machine.activation_checkpointing={checkpointing}")
    found = simulation("llama-7b", *knobs)
    check(found, memory=0.12, sent=0.015)
    assert found["sent"].keys() == ({"data", "tensor"} if tensor > 1 else {"data"})
