"""Calibration: the time of a training step on this machine, from few steps of models with few blocks.

A step of L blocks and M micro-batches takes a + b M + L (c + d M) seconds: the head and the loss, and blocks, once for each
micro-batch and once for the optimizer. Four short trainings, with two numbers of blocks and of micro-batches, give a to d.
"""

import statistics
from dataclasses import dataclass

import torch

from groundup.model import build_model
from groundup.plan.defaults.training_knobs import require_derived
from groundup.plan.hardware import device_spec
from groundup.plan.shape.model_shape import config_for_width
from groundup.plan.time.training_speed import TrainingSpeed
from groundup.recipe import ModelConfig
from groundup.recipe.train_config import TrainConfig
from groundup.train.micro_batch import DEFAULT_TOKENS
from groundup.train.training_loop import train

DEPTHS, MICRO_BATCHES = (1, 3), 3
STEPS = 5
SECONDS_PER_TRAINING = 4.0
"""About the time of one of the four: of large models a step or two are measured."""


@dataclass(frozen=True)
class Calibration:
    """Seconds of a step: `measured` on this machine, extrapolated to all blocks and micro-batches, and `planned`."""

    measured: float
    planned: float

    @property
    def relative_speed(self) -> float:
        """Of this machine, as budget.relative_speed: 1 = as in the table of devices."""
        return float(f"{self.planned / self.measured:.3g}")


def calibrate_speed(hardware: str, config: ModelConfig, training: TrainConfig, device: str = "cpu") -> Calibration:
    """Measure steps of `config` with few blocks, in the batches, precision and optimizer of a derived [train].

    On one device: communication is not measured. For an encoder-decoder, a decoder of the same width stands in.
    """
    stand_in = config
    if config.architecture == "encoder_decoder":
        sizes = {"num_layers": config.num_layers, "context_length": config.context_length}
        stand_in = config_for_width(config.hidden_size, config.vocab_size, sizes)
    length = require_derived(training.sequence_length, "train.sequence_length")
    batch = require_derived(training.batch_tokens, "train.batch_tokens") // length
    rows = max(1, min(batch, DEFAULT_TOKENS[device.partition(":")[0]] // length))
    depths = [min(depth, config.num_layers) for depth in DEPTHS]
    counts = sorted({1, min(MICRO_BATCHES, -(-batch // rows))})
    seconds = {
        (depth, count): _step_seconds(_with_depth(stand_in, depth), training, length, rows, count, device)
        for depth in dict.fromkeys(depths)
        for count in counts
    }
    speed = TrainingSpeed(device_spec(hardware))
    measured = _extrapolate(seconds, stand_in.num_layers, batch / rows)
    return Calibration(measured, speed.step_seconds(stand_in, length, batch * length))


def _with_depth(config: ModelConfig, depth: int) -> ModelConfig:
    """The model with fewer blocks."""
    update: dict[str, object] = {"num_layers": depth}
    if config.layer_types:
        update["layer_types"] = config.layer_types[:depth]
    return config.model_copy(update=update)


def _step_seconds(
    config: ModelConfig, training: TrainConfig, length: int, rows: int, micro_batches: int, device: str
) -> float:
    """Median seconds of a step of `micro_batches` times `rows` sequences."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(config.vocab_size, (rows * micro_batches, length), generator=generator)
    batches = [{"tokens": tokens, "labels": tokens}]
    options = {"optimizer": training.optimizer, "precision": training.precision, "evaluate_every": 1_000_000}
    model = build_model(config)
    first = train(model, batches, steps=1, device=device, **options).records[0]["seconds"]
    steps = max(1, min(STEPS, int(SECONDS_PER_TRAINING / first)))
    result = train(model, batches, steps=1 + steps, device=device, **options)
    return statistics.median(record["seconds"] for record in result.records[1:])


def _extrapolate(seconds: dict[tuple[int, int], float], depth: int, micro_batches: float) -> float:
    """Seconds at `depth` and `micro_batches`, bilinear in both; constant in the one that was measured once.

    >>> _extrapolate({(1, 1): 3.0, (3, 1): 5.0, (1, 3): 7.0, (3, 3): 13.0}, 12, 8)
    105.0
    """
    depths, counts = sorted({key[0] for key in seconds}), sorted({key[1] for key in seconds})

    def line(x0: float, y0: float, x1: float, y1: float, x: float) -> float:
        return y0 if x0 == x1 else y0 + max(0.0, y1 - y0) * (x - x0) / (x1 - x0)

    at_depth = [
        line(depths[0], seconds[depths[0], count], depths[-1], seconds[depths[-1], count], depth) for count in counts
    ]
    return line(counts[0], at_depth[0], counts[-1], at_depth[-1], micro_batches)
