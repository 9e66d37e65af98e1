"""Planned seconds of a training step: against measurements, and where they cannot depend on overhead."""

from typing import Any

import pytest

from groundup.plan.hardware import device_spec
from groundup.plan.shape.model_shape import config_for_width
from groundup.plan.shape.parameter_count import TEXT_PAIRS, training_flops_per_token
from groundup.plan.time.training_speed import TrainingSpeed, reference_model
from groundup.recipe import ModelConfig

# Median seconds of a step with Muon in bfloat16: two cores of an Intel Xeon with AMX, torch 2.13, 2026-11-28, quiet machine.
MEASURED = [
    # width, vocabulary, length, tokens of a batch, seconds
    (64, 4_096, 256, 8_192, 0.350),
    (96, 4_096, 256, 8_192, 0.510),
    (128, 4_096, 256, 8_192, 0.836),
    (192, 4_096, 256, 8_192, 1.439),
    (256, 4_096, 256, 8_192, 2.025),
    (320, 4_096, 256, 8_192, 2.657),
    (448, 4_096, 256, 8_192, 5.020),
    (128, 512, 256, 8_192, 0.731),
    (128, 16_384, 256, 8_192, 1.342),
    (128, 4_096, 128, 8_192, 0.786),
    (128, 4_096, 1_024, 8_192, 1.086),
    (256, 4_096, 512, 8_192, 2.456),
    (128, 4_096, 256, 1_024, 0.190),
    (128, 4_096, 256, 2_048, 0.231),
    (128, 4_096, 256, 16_384, 1.198),
    (256, 4_096, 256, 2_048, 0.548),
    (256, 32_000, 512, 8_192, 3.313),
]


@pytest.mark.parametrize(("width", "vocab_size", "length", "batch_tokens", "seconds"), MEASURED)
def test_planned_step_is_the_measured_one(width, vocab_size, length, batch_tokens, seconds):
    config = config_for_width(width, vocab_size, {"qk_norm": True, "context_length": length})
    planned = TrainingSpeed(device_spec("cpu-2")).step_seconds(config, length, batch_tokens)
    assert planned == pytest.approx(seconds, rel=0.24)


# Mean seconds of a step of T5 on spans, and on pairs of texts of 11 and 13 tokens, padded: the same machine, 2026-11-29.
MEASURED_PAIRS = [
    # width, blocks, length, tokens of a batch, seconds on spans, positions of a batch of pairs, seconds on pairs
    (128, 3, 256, 1_024, 0.226, 2_034, 0.449),
    (192, 3, 64, 2_048, 0.304, 1_411, 0.349),
]


@pytest.mark.parametrize(("width", "blocks", "length", "batch_tokens", "spans", "positions", "pairs"), MEASURED_PAIRS)
def test_planned_step_of_an_encoder_decoder(width, blocks, length, batch_tokens, spans, positions, pairs):
    speed, fixed = TrainingSpeed(device_spec("cpu-2")), {"context_length": length, "num_layers": blocks}
    t5 = config_for_width(width, 2_048, fixed | {"architecture": "encoder_decoder", "feed_forward": "geglu_tanh"})
    assert speed.step_seconds(t5, length, batch_tokens) == pytest.approx(spans, rel=0.25)
    assert speed.step_seconds(t5, 16, positions, TEXT_PAIRS) == pytest.approx(pairs, rel=0.25)


def test_accelerators_reach_the_utilization_of_the_table():
    """The reference model does; smaller and narrower ones wait for memory, as measured."""
    for name in ("a100", "h100", "rtx-4090", "mi300x"):
        device = device_spec(name)

        def utilization(config: ModelConfig, length: int, device: Any = device) -> float:
            seconds = TrainingSpeed(device, devices=8).step_seconds(config, length, 2**22)
            return 2**22 * training_flops_per_token(config, length) / seconds / device.peak_flops / 8

        assert utilization(reference_model(), 4096) == pytest.approx(device.utilization, rel=0.03)
        narrow = config_for_width(768, 50_304, {"context_length": 1024})
        assert utilization(narrow, 1024) < 0.95 * device.utilization


def test_relative_speed_divides_the_time():
    config = config_for_width(128, 4_096, {})
    full, half = (
        TrainingSpeed(device_spec("cpu-2"), 1, speed).step_seconds(config, 256, 2_048) for speed in (1.0, 0.5)
    )
    assert half == pytest.approx(2 * full)


def test_planned_step_of_lora_is_the_measured_one():
    # Median steps on the same machine, 2026-11-29: the chat model of recipes/quickstart.toml, and SmolLM2-135M.
    small = config_for_width(256, 4_096, {"num_layers": 6, "qk_norm": True, "tie_embeddings": True})
    large = ModelConfig(
        vocab_size=49_152, hidden_size=576, num_layers=30, num_heads=9, num_kv_heads=3, intermediate_size=1536,
        tie_embeddings=True,
    )  # fmt: skip
    speed = TrainingSpeed(device_spec("cpu-2"))
    assert speed.step_seconds(large, 512, 512, method="lora") == pytest.approx(1.873, rel=0.1)
    assert speed.step_seconds(small, 256, 1_024, method="lora") == pytest.approx(0.333, rel=0.1)
