"""Seconds of a training step: arithmetic, and an overhead of each block that arithmetic does not explain.

On CPUs the overhead is most of the time of models under a few million parameters: norms, softmax and activations are
limited by memory, not by arithmetic, and small operators by their calls.
"""

from dataclasses import dataclass

from groundup.plan.hardware import DeviceSpec
from groundup.plan.parameter_count import SPANS, num_encoder_layers, training_flops_per_token
from groundup.recipe import ModelConfig


@dataclass(frozen=True)
class TrainingSpeed:
    """Speed of `devices` of one kind; `relative`: of this machine, 1 = as in the table of devices."""

    device: DeviceSpec
    devices: int = 1
    relative: float = 1.0

    def step_seconds(
        self, config: ModelConfig, sequence_length: int, batch_tokens: int, shares: tuple[float, float] = SPANS
    ) -> float:
        """Seconds of a step on `batch_tokens` tokens; `shares`: those of an encoder-decoder's parts."""
        device = self.device
        flops = batch_tokens * training_flops_per_token(config, sequence_length, shares)
        arithmetic = flops / (device.peak_flops * device.utilization * self.devices)
        encoder_blocks = num_encoder_layers(config)
        token_blocks = float(config.num_layers)
        if encoder_blocks:
            token_blocks = shares[0] * encoder_blocks + shares[1] * config.num_layers
        overhead = (config.num_layers + encoder_blocks) * device.block_seconds
        overhead += token_blocks * device.block_token_seconds * batch_tokens / self.devices
        return (arithmetic + overhead) / self.relative

    def training_seconds(
        self, config: ModelConfig, sequence_length: int, tokens: float, batch_tokens: int,
        shares: tuple[float, float] = SPANS,
    ) -> float:  # fmt: skip
        """Seconds of training on `tokens`, in steps of `batch_tokens`."""
        return tokens / batch_tokens * self.step_seconds(config, sequence_length, batch_tokens, shares)
