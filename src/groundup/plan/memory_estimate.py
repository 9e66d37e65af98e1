"""Bytes that training holds on each device."""

from dataclasses import dataclass
from typing import Literal

from groundup.plan.communication import FP32_BYTES, rank_parameters, replicated_kv_weights
from groundup.plan.parameter_count import count_parameters
from groundup.recipe import ModelConfig
from groundup.recipe.layout_config import LayoutConfig

CROSS_ENTROPY_CHUNK = 1024
"""Tokens whose logits exist at one time; see model/loss.py."""

ActivationCheckpointing = Literal["none", "selective", "full"]


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device during a training step.

    `gathered` are copies of weights for the blocks at work, in the precision of their products or whole again, and
    gradients on their way to their shards.
    """

    weights: float
    gradients: float
    optimizer: float
    unsharded: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        return (
            self.weights + self.gradients + self.optimizer + self.unsharded + self.activations + self.logits
        )


def estimate_training_memory(
    config: ModelConfig,
    sequence_length: int,
    micro_batch: int,
    layout: LayoutConfig,
    activation_checkpointing: ActivationCheckpointing = "none",
    compute_bytes: int = 2,
) -> MemoryEstimate:
    """Memory with float32 master weights, products of `product` bytes and AdamW, on the first device of a pipeline.

    Weights, gradients and the two moments take 4 + 4 + 8 bytes a parameter (Rajbhandari et al. 2020, section 3.1, in
    float32), cut over the tensor, pipeline, shard and context axes. For each token of a block the backward pass wants,
    in bytes, 18 D for the float32 stream with its two norms, 4 D for what products read of it, 4 (H + G) K for
    attention and 8 F for the gated feed-forward. Kept selectively are the results of products: 4 D for the stream,
    2 D (or 4 D, before they are summed over the tensor axis), 4 (H + G) K and 4 F. With full recomputation it is the
    stream alone, 4 D, beside one block in full. What products read and give at the edge of a pair is not cut over the
    tensor axis; all else is. The constants come from counting what a step keeps on fake devices (train/simulation.py):
    they follow PyTorch's kernels as Korthikanti et al. 2022, equation 1, followed Megatron's.
    """
    assert layout.shard is not None
    data = layout.shard * layout.context
    if config.moe is not None:  # counted whole: its experts are cut along an axis of their own
        parameters = count_parameters(config).total / layout.tensor / layout.pipeline
        part, blocks, ends = None, parameters, 0.0
        each = parameters * layout.pipeline / config.num_layers
    else:
        part = rank_parameters(config, layout)
        blocks, ends = part.per_tensor_rank(layout, replicated_kv_weights(config, layout))
        each = blocks / max(1, part.num_blocks)
    state = (blocks + ends) / data
    reshard = (
        layout.reshard_after_forward if layout.reshard_after_forward is not None else layout.pipeline == 1
    )
    if data > 1:
        gathered = ends * FP32_BYTES + (2 * each if reshard else blocks) * compute_bytes + each * FP32_BYTES
    else:
        gathered = blocks * compute_bytes if compute_bytes < FP32_BYTES else 0.0
    tokens = sequence_length * micro_batch / layout.context
    width, tensor = config.hidden_size, layout.tensor
    row = tokens * width  # a number for each token and place of the stream
    own = row / (tensor if layout.sequence_parallel else 1)
    heads = 4 * (config.num_heads + config.num_kv_heads) * config.head_dim
    whole = 18 * own + 4 * row + tokens * (heads + 8 * config.intermediate_size) / tensor
    some = 4 * own + (4 if tensor > 1 else 2) * row + tokens * (heads + 4 * config.intermediate_size) / tensor
    kept = {"none": whole, "selective": some, "full": FP32_BYTES * own}[activation_checkpointing]
    num_blocks = part.num_blocks if part is not None else config.num_layers / layout.pipeline
    activations = layout.pipeline * num_blocks * kept + (
        0 if activation_checkpointing == "none" else whole - kept
    )
    vocabulary = config.vocab_size / tensor
    logits = (
        vocabulary * (6 * min(tokens, CROSS_ENTROPY_CHUNK) + FP32_BYTES * width) + tokens * width * FP32_BYTES
    )
    return MemoryEstimate(
        FP32_BYTES * state, FP32_BYTES * state, 2 * FP32_BYTES * state, gathered, activations, logits
    )
