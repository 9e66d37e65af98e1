"""Training speed of this machine, relative to a device of the planner's table."""

import statistics

import torch

from groundup.model import build_model
from groundup.plan.hardware import device_spec
from groundup.plan.model_shape import config_for_width
from groundup.plan.training_speed import TrainingSpeed
from groundup.recipe import ModelConfig
from groundup.train.token_batches import make_batches
from groundup.train.training_loop import train

MAX_WIDTH, MAX_BLOCKS, MAX_LENGTH = 512, 4, 256
MAX_STEP_SECONDS = 1.0
"""Planned seconds of a measured step: batches are made smaller until it is shorter."""
WARMUP_STEPS, STEPS = 2, 5


def measure_relative_speed(hardware: str, config: ModelConfig, batch_tokens: int) -> float:
    """Planned seconds of a step on `hardware`, divided by those measured here, of a model like `config`.

    The model is a decoder of the same width, up to MAX_WIDTH, with few blocks, on batches up to `batch_tokens`.
    """
    length = min(config.context_length, MAX_LENGTH)
    fixed = {"num_layers": min(config.num_layers, MAX_BLOCKS), "context_length": length, "qk_norm": True}
    measured_config = config_for_width(min(config.hidden_size, MAX_WIDTH), config.vocab_size, fixed)
    speed = TrainingSpeed(device_spec(hardware))
    rows = max(1, batch_tokens // length)
    while rows > 1 and speed.step_seconds(measured_config, length, rows * length) > MAX_STEP_SECONDS:
        rows //= 2
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(measured_config.vocab_size, (2 * rows * length,), generator=generator).numpy()
    result = train(
        build_model(measured_config), make_batches(tokens, sequence_length=length, batch_size=rows),
        steps=WARMUP_STEPS + STEPS, evaluate_every=1000, optimizer="muon", precision="bfloat16", device="cpu",
    )  # fmt: skip
    measured = statistics.median(record["seconds"] for record in result.records[WARMUP_STEPS:])
    return speed.step_seconds(measured_config, length, rows * length) / measured
