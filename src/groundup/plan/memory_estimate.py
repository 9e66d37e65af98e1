"""Estimate of the memory of training on each device."""

from dataclasses import dataclass, fields
from typing import Literal

from groundup.artifacts.machine import ActivationCheckpointing
from groundup.plan.communication import FP32_BYTES, rank_parameters, replicated_kv_weights, reshards_after_forward
from groundup.plan.hardware import device_spec
from groundup.plan.parameter_count import count_parameters
from groundup.recipe import ModelConfig
from groundup.recipe.layout_config import LayoutConfig
from groundup.recipe.train_config import TrainConfig

CROSS_ENTROPY_CHUNK, FROZEN_CROSS_ENTROPY_CHUNK = 1024, 256
"""Tokens per chunk of logits; see model/loss.py."""

SINGLE_DEVICE, DEFAULT_TRAINING = LayoutConfig(), TrainConfig()


DeviceKind = Literal["cpu", "cuda"]
"""Of which kernels: CPUs count the whole process, accelerators what PyTorch allocates and the driver's context."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device at the moment of a training step that needs most, by part.

    Attributes:
        weights: parameters as they are stored.
        gradients: of the trainable parameters.
        optimizer: moments, and the weight average.
        unsharded: all-gathered weights of the current blocks, casts of weights to the precision of products, and gradients
            before they are reduced.
        activations: what the forward pass keeps for the backward pass; without the loss.
        logits: of a chunk of tokens, their gradient, and that of the head.
        buffers: batches, masks and temporary tensors.
        slack: memory of the allocator that no tensor uses.
        process: Python, libraries and the driver's context.
        activations_by_layer: those of each block, of `activations`.
    """

    weights: float
    gradients: float
    optimizer: float
    unsharded: float
    activations: float
    logits: float
    buffers: float = 0.0
    slack: float = 0.0
    process: float = 0.0
    activations_by_layer: tuple[float, ...] = ()

    def parts(self) -> dict[str, float]:
        """Bytes by part, whose sum is `total`."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "activations_by_layer"}

    @property
    def total(self) -> float:
        return sum(self.parts().values())


def device_kind(hardware: str) -> DeviceKind:
    """Of a device of plan/hardware.py."""
    return "cpu" if device_spec(hardware).kind == "cpu" else "cuda"


def estimate_training_memory(
    config: ModelConfig,
    sequence_length: int,
    micro_batch: int,
    layout: LayoutConfig = SINGLE_DEVICE,
    activation_checkpointing: ActivationCheckpointing = "none",
    train: TrainConfig = DEFAULT_TRAINING,
    *,
    kind: DeviceKind = "cuda",
) -> MemoryEstimate:
    """Memory with float32 master weights, matrix products of `compute_bytes` per value, and AdamW, on pipeline rank 0.

    Weights, gradients and two moments: 4 + 4 + 8 bytes per parameter (Rajbhandari et al. 2020, section 3.1, in float32),
    sharded over the tensor, pipeline, shard and context axes. Activations in bytes per token and block (D hidden size,
    H heads, G key/value heads, K head dim, F feed-forward):

        none        18 D residual stream and norms, 4 D inputs of products, 4 (H + G) K attention, 8 F feed-forward
        selective   4 D residual stream, 2 D outputs of products (4 D with tensor parallelism), 4 (H + G) K, 4 F
        full        4 D residual stream, and one block as in `none`

    The constants were counted on fake devices (train/simulation.py): they follow PyTorch's kernels, as those of
    Korthikanti et al. 2022, equation 1, follow Megatron's.

    >>> config = ModelConfig(vocab_size=50_304, hidden_size=768, num_layers=12, num_heads=12)
    >>> memory = estimate_training_memory(config, sequence_length=1024, micro_batch=8)
    >>> f"{memory.total / 1e9:.1f} GB"
    '7.1 GB'
    """
    data_ranks = layout.data_ranks
    compute_bytes = 4 if train.precision == "float32" else 2
    if config.moe is not None:  # approximation: the expert axis is ignored
        blocks, ends = count_parameters(config).total / layout.tensor / layout.pipeline, 0.0
        num_blocks = config.num_layers / layout.pipeline
    else:
        rank = rank_parameters(config, layout)
        blocks, ends = rank.per_tensor_rank(layout, replicated_kv_weights(config, layout))
        num_blocks = rank.num_blocks
    block = blocks / max(1, num_blocks)
    state = (blocks + ends) / data_ranks
    if data_ranks > 1:
        weights = (2 * block if reshards_after_forward(layout) else blocks) * compute_bytes
        unsharded = ends * FP32_BYTES + weights + block * FP32_BYTES
    else:
        unsharded = blocks * compute_bytes if compute_bytes < FP32_BYTES else 0.0
    tokens = sequence_length * micro_batch / layout.context
    width, tensor = config.hidden_size, layout.tensor
    stream = tokens * width  # values of the residual stream
    local = stream / (tensor if layout.sequence_parallel else 1)
    heads = 4 * (config.num_heads + config.num_kv_heads) * config.head_dim
    bytes_per_block = {
        "none": 18 * local + 4 * stream + tokens * (heads + 8 * config.intermediate_size) / tensor,
        "selective": 4 * local
        + (4 if tensor > 1 else 2) * stream
        + tokens * (heads + 4 * config.intermediate_size) / tensor,
        "full": FP32_BYTES * local,
    }
    saved, recomputed = bytes_per_block[activation_checkpointing], bytes_per_block["none"]
    activations = layout.pipeline * num_blocks * saved
    if activation_checkpointing != "none":
        activations += recomputed - saved
    vocab_size = config.vocab_size / tensor
    logits = vocab_size * (6 * min(tokens, CROSS_ENTROPY_CHUNK) + FP32_BYTES * width) + stream * FP32_BYTES
    return MemoryEstimate(
        FP32_BYTES * state, FP32_BYTES * state, 2 * FP32_BYTES * state, unsharded, activations, logits
    )
