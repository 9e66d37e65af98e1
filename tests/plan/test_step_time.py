"""Step time estimates: bandwidths, pipeline bubble, published runs within an eighth."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from groundup.plan.hardware import DEVICES
from groundup.plan.layout.communication import StepSpec
from groundup.plan.time.step_time import axis_bandwidth, estimate_step_time
from groundup.recipe import ModelConfig
from groundup.recipe.layout_config import LayoutConfig

ROOT = Path(__file__).resolve().parents[2]
H100 = DEVICES["h100"]
CONFIG = ModelConfig(
    vocab_size=32_000, hidden_size=4096, num_layers=32, num_heads=32, intermediate_size=11_008, context_length=4096
)  # fmt: skip


@pytest.fixture(scope="module")
def page() -> Any:
    spec = importlib.util.spec_from_file_location("thousand_devices", ROOT / "benchmarks/thousand_devices.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("axis", "layout", "expected"),
    [
        ("tensor", {"tensor": 8, "shard": 128}, 450e9),  # inside a machine
        ("data", {"tensor": 8, "shard": 128}, 50e9),  # one rank of the group in each machine
        ("data", {"tensor": 2, "shard": 4}, 450e9),
        ("data", {"tensor": 4, "shard": 256}, 100e9),  # two ranks of a machine reach the network together
        ("data", {"shard": 1024}, 400e9),
        ("replicate", {"shard": 8, "replicate": 16}, 50e9),
        ("tensor", {"tensor": 16, "shard": 1}, 400e9),
    ],
)
def test_axis_bandwidth(axis, layout, expected):
    assert axis_bandwidth(axis, LayoutConfig(**layout), H100) == expected


def test_pipeline_bubble():
    layout = LayoutConfig(pipeline=8, shard=1)
    few, many = (estimate_step_time(CONFIG, layout, StepSpec(count, 4096, count), H100) for count in (8, 64))
    assert few.pipeline == pytest.approx(7 / 8 * few.compute)
    assert many.pipeline == pytest.approx(7 / 64 * many.compute)
    assert many.utilization > few.utilization


def test_recomputation_and_hidden_communication():
    layout = LayoutConfig(shard=64)
    plain, again = (
        estimate_step_time(CONFIG, layout, StepSpec(4, 4096, 1, activation_checkpointing=kind), H100)
        for kind in ("none", "full")
    )
    assert again.compute == pytest.approx(1.2 * plain.compute, rel=0.02)  # the head is not recomputed
    assert plain.data < 0.02 * plain.total
    starved = estimate_step_time(CONFIG, layout, StepSpec(1, 256, 1), H100)
    assert starved.data > starved.compute


def test_published_step_times(page):
    text = (ROOT / "book/thousand-devices.md").read_text(encoding="utf-8")
    for table in page.TABLES:
        lines, _, errors = page.table_rows(table)
        assert all(abs(error) < 1 / 8 for error in errors), table.name
        assert "\n".join(lines) in text, "python benchmarks/thousand_devices.py writes it anew"
    assert "\n".join(page.recipe_rows()) in text
