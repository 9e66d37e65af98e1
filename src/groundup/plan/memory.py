"""Bytes that training holds on each device."""

from dataclasses import dataclass

from groundup.plan.count import count
from groundup.recipe import ModelConfig

CROSS_ENTROPY_CHUNK = 2048
"""Tokens whose logits exist at one time; see model/loss.py."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one device during a training step."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits


def training_memory(
    config: ModelConfig, sequence_length: int, micro_batch: int, shards: int = 1, checkpointing: bool = False
) -> Memory:
    """Memory with float32 master weights, bfloat16 products and AdamW, all three sharded over `shards` devices.

    Weights, gradients and the two moments take 4 + 4 + 8 bytes a parameter (Rajbhandari et al. 2020, section 3.1, in
    float32). Activations without checkpointing follow Korthikanti et al. 2022, equation 1 without the score matrix,
    which fused attention never stores: about 34 bytes for each of B T D in a block with a 4 D feed-forward, scaled
    to the real width; with checkpointing one bfloat16 copy of the residual stream a block, and one block in full.
    """
    parameters = count(config).total
    tokens = sequence_length * micro_batch
    widths = 18 * config.hidden_size + 4 * config.intermediate_size
    per_block = tokens * float(widths)
    if checkpointing:
        activations = config.num_layers * tokens * config.hidden_size * 2.0 + per_block
    else:
        activations = config.num_layers * per_block
    logits = 8.0 * min(tokens, CROSS_ENTROPY_CHUNK) * config.vocab_size
    return Memory(
        4.0 * parameters / shards, 4.0 * parameters / shards, 8.0 * parameters / shards, activations, logits
    )
