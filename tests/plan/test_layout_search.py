"""Layout search: the best is the fastest of all meshes that fit, and every mesh passes the checks of a run."""

import pytest

from groundup.artifacts.errors import UserError
from groundup.plan.hardware import DEVICES, device_spec
from groundup.plan.layout.layout_search import MEMORY_FRACTION, other_precision, search_layouts
from groundup.plan.layout.parallel_layout import check_layout
from groundup.plan.time.training_speed import reference_model
from groundup.recipe import ModelConfig
from groundup.recipe.train_config import TrainConfig

TRAIN = TrainConfig(batch_tokens=1024 * 4096, sequence_length=4096)


def test_best_layout_is_feasible_and_fastest():
    search = search_layouts(reference_model(), TRAIN, DEVICES["h100"], 64)
    times = [each.seconds for each in search.candidates]
    assert times == sorted(times)
    for each in search.candidates[:20]:
        assert each.layout.num_devices == 64
        assert each.memory.total <= MEMORY_FRACTION * DEVICES["h100"].memory_bytes
        check_layout(each.layout, reference_model(), TRAIN)
    assert not search.best.lost
    assert all(each.lost for each in search.candidates[1:])
    assert search.best.knobs()["machine.layout.shard"] == search.best.layout.shard
    assert len(search.candidates) + sum(search.refused.values()) == search.tried


def test_slow_links_lose():
    best = search_layouts(reference_model(), TRAIN, DEVICES["h100"], 64).best
    assert best.layout.tensor == 1  # weights move once a step, activations in every block
    slow = search_layouts(reference_model(), TRAIN, DEVICES["l40s"], 64)
    assert slow.best.step.utilization < best.step.utilization


def test_experts_are_spread_where_there_are_some():
    moe = {"num_experts": 16, "experts_per_token": 2, "intermediate_size": 2048}
    config = ModelConfig(vocab_size=32_000, hidden_size=2048, num_layers=8, num_heads=16, moe=moe)  # pyright: ignore[reportArgumentType]
    search = search_layouts(config, TRAIN, DEVICES["h100"], 16)
    assert {each.layout.expert for each in search.candidates} >= {1, 2, 4}


def test_eight_bits_are_an_alternative_on_one_device():
    config = ModelConfig(vocab_size=32_000, hidden_size=2048, num_layers=16, num_heads=16)
    for name, devices, is_faster in (("h100", 1, True), ("a100", 1, False), ("h100", 8, False)):
        search = search_layouts(config, TRAIN, DEVICES[name], devices)
        other = other_precision(search.best, config, TRAIN, DEVICES[name])
        assert (other is not None and other.seconds < search.best.seconds) == is_faster


def test_too_small_devices():
    with pytest.raises(UserError, match="the leanest needs"):
        search_layouts(reference_model(), TRAIN, DEVICES["rtx-4090"], 1)
    with pytest.raises(UserError, match="no layout of 1,000,003 devices"):
        search_layouts(reference_model(), TRAIN, DEVICES["h100"], 1_000_003)


def test_table_of_devices():
    assert len(DEVICES) >= 30
    assert {spec.kind for spec in DEVICES.values()} == {"gpu", "workstation", "consumer", "apple", "cpu", "tpu"}
    for spec in DEVICES.values():
        assert spec.source
        assert spec.label
        assert 1e10 < spec.peak_flops < 1e16
        assert 1e9 < spec.memory_bandwidth < 1e13
        assert 0.1 < spec.utilization < 0.9
    assert device_spec("this-machine").memory_bytes > 1e9
    with pytest.raises(UserError, match="expected one of cpu-2"):
        device_spec("abacus")
