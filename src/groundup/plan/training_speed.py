"""Seconds of a training step: arithmetic, and an overhead of each block that arithmetic does not explain.

On CPUs the overhead is most of the time of models under a few million parameters: norms, softmax and activations are
limited by memory, not by arithmetic, and small operators by their calls.
"""

from dataclasses import dataclass

from groundup.plan.hardware import DeviceSpec
from groundup.plan.parameter_count import SPANS, training_flops_per_token
from groundup.plan.weight_shapes import num_encoder_layers
from groundup.recipe import ModelConfig

LORA_ARITHMETIC, LORA_OVERHEAD = 2 / 3, 1.5
"""Of training all weights: no gradients of frozen weights, but two more small products for each of seven matrices. Measured
with models of 5.9 and 135 million parameters on cpu-2, within 2% of both."""
CROSS_ATTENTION_BLOCKS = 2
"""Calls of operators of a block with cross-attention, of one with self-attention alone (measured at 1.7 million parameters)."""


@dataclass(frozen=True)
class TrainingSpeed:
    """Speed of `devices` of one kind; `relative`: of this machine, 1 = as in the table of devices."""

    device: DeviceSpec
    devices: int = 1
    relative: float = 1.0

    def step_seconds(
        self,
        config: ModelConfig,
        sequence_length: int,
        batch_tokens: float,
        shares: tuple[float, float] = SPANS,
        *,
        method: str = "full",
    ) -> float:
        """Seconds of a step on `batch_tokens` tokens.

        Args:
            shares: of the tokens, in the parts of an encoder-decoder.
            method: full; lora and qlora train adapters alone.
        """
        device = self.device
        flops = batch_tokens * training_flops_per_token(config, sequence_length, shares)
        arithmetic = flops / (device.peak_flops * device.utilization * self.devices)
        blocks = token_blocks = float(config.num_layers)
        if encoder_blocks := num_encoder_layers(config):
            blocks = encoder_blocks + CROSS_ATTENTION_BLOCKS * config.num_layers
            token_blocks = shares[0] * encoder_blocks + shares[1] * config.num_layers
        overhead = blocks * device.block_seconds
        overhead += token_blocks * device.block_token_seconds * batch_tokens / self.devices
        if method != "full":
            return (LORA_ARITHMETIC * arithmetic + LORA_OVERHEAD * overhead) / self.relative
        return (arithmetic + overhead) / self.relative

    def training_seconds(
        self,
        config: ModelConfig,
        sequence_length: int,
        tokens: float,
        batch_tokens: float,
        shares: tuple[float, float] = SPANS,
        *,
        method: str = "full",
    ) -> float:
        """Seconds of training on `tokens`, in steps of `batch_tokens`."""
        step = self.step_seconds(config, sequence_length, batch_tokens, shares, method=method)
        return tokens / batch_tokens * step


def without_logits(config: ModelConfig) -> ModelConfig:
    """`config` for the time of tasks that compute no logits: embeddings and labels."""
    return config.model_copy(update={"vocab_size": 1, "masked_lm_head": False})
