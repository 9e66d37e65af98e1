"""Training speed of this machine, relative to a device of the planner's table."""

import torch

from groundup.model import build_model
from groundup.plan.hardware import device_spec
from groundup.plan.model_shape import config_for_width
from groundup.plan.training_speed import TrainingSpeed
from groundup.recipe import ModelConfig
from groundup.train.token_batches import make_batches
from groundup.train.training_loop import train

MAX_WIDTH, MAX_BLOCKS, LENGTH, BATCH_SIZE = 512, 4, 256, 8
WARMUP_STEPS, STEPS = 2, 5


def measure_relative_speed(hardware: str, config: ModelConfig) -> float:
    """Planned seconds of a step on `hardware`, divided by those measured here; seconds on a model like `config`.

    The model is a decoder of the same width, up to MAX_WIDTH, with few blocks: the time of a step is a second or less.
    """
    width = min(config.hidden_size, MAX_WIDTH)
    model_config = config_for_width(
        width, config.vocab_size, {"num_layers": MAX_BLOCKS, "context_length": LENGTH, "qk_norm": True}
    )
    tokens = torch.randint(
        model_config.vocab_size, (BATCH_SIZE * LENGTH * 2,), generator=torch.Generator().manual_seed(0)
    )
    batches = make_batches(tokens.numpy(), sequence_length=LENGTH, batch_size=BATCH_SIZE)
    result = train(
        build_model(model_config), batches, steps=WARMUP_STEPS + STEPS, evaluate_every=1000, optimizer="muon",
        precision="bfloat16", device="cpu",
    )  # fmt: skip
    measured = min(record["seconds"] for record in result.records[WARMUP_STEPS:])
    planned = TrainingSpeed(device_spec(hardware)).step_seconds(model_config, LENGTH, BATCH_SIZE * LENGTH)
    return planned / measured
