"""Seconds of a training step on a CPU, measured and as planned, over shapes of small models.

    python benchmarks/step_time.py            # about five minutes on two cores; only a quiet machine gives figures

No peer: the reference is `groundup.plan.time.training_speed`, whose constants in plan/hardware.py were fitted to this table.
"""

import statistics

import torch

from groundup.model import build_model
from groundup.plan.hardware import device_spec
from groundup.plan.shape.model_shape import config_for_width
from groundup.plan.shape.parameter_count import count_parameters
from groundup.plan.time.training_speed import TrainingSpeed
from groundup.train.training_loop import train

SHAPES = [
    *((width, 4_096, 256, 8_192) for width in (64, 96, 128, 192, 256, 320, 448)),
    *((128, vocab_size, 256, 8_192) for vocab_size in (512, 1_024, 2_048, 16_384)),
    *((128, 4_096, length, 8_192) for length in (128, 512, 1_024)),
    *((128, 4_096, 256, batch_tokens) for batch_tokens in (1_024, 2_048, 4_096, 16_384, 32_768)),
    (256, 4_096, 512, 8_192), (256, 4_096, 256, 2_048), (256, 32_000, 512, 8_192),
]  # fmt: skip
"""Width, vocabulary, length, tokens of a batch."""
WARMUP_STEPS, STEPS = 3, 5


def measure(width: int, vocab_size: int, length: int, batch_tokens: int) -> tuple[int, float, float]:
    """Parameters, and seconds of a step: measured (median) and planned."""
    config = config_for_width(width, vocab_size, {"qk_norm": True, "context_length": length})
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocab_size, (batch_tokens // length, length), generator=generator)
    batches = [{"tokens": tokens, "labels": tokens}]
    options = {"optimizer": "muon", "precision": "bfloat16", "evaluate_every": 1_000, "device": "cpu"}
    result = train(build_model(config), batches, steps=WARMUP_STEPS + STEPS, **options)
    measured = statistics.median(record["seconds"] for record in result.records[WARMUP_STEPS:])
    planned = TrainingSpeed(device_spec("cpu-2")).step_seconds(config, length, batch_tokens)
    return count_parameters(config).total, measured, planned


def main() -> None:
    print(
        "| width | vocabulary | length | batch | parameters | measured | planned | ratio |\n|---|---|---|---|---|---|---|---|"
    )
    for width, vocab_size, length, batch_tokens in SHAPES:
        parameters, measured, planned = measure(width, vocab_size, length, batch_tokens)
        print(
            f"| {width} | {vocab_size:,} | {length} | {batch_tokens:,} | {parameters / 1e6:.2f}M | {measured:.3f} s | "
            f"{planned:.3f} s | {planned / measured:.2f} |", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
