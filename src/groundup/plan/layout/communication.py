"""Communication volume: bytes that a rank sends in one step, by parallel axis, as closed formulas.

Of n ranks each sends at least (n - 1) / n of the tensor in an all-gather, reduce-scatter or all-to-all, and twice that in
an all-reduce (parallel/comm_counter.py counts it). For dense decoders without biases, as in plan/shape/parameter_count.py.
"""

from dataclasses import dataclass
from math import prod

from groundup.artifacts.machine import ActivationCheckpointing
from groundup.plan.layout.pipeline_schedule import num_stages, stage_indices
from groundup.plan.shape.parameter_count import count_blocks
from groundup.plan.shape.weight_shapes import weight_shapes
from groundup.recipe import ModelConfig
from groundup.recipe.base_config import cached
from groundup.recipe.layout_config import LayoutConfig

FP32_BYTES = 4
"""Bytes per value of the residual stream, of gradients and of master weights."""


@dataclass(frozen=True)
class StepSpec:
    """The work of one rank in one step.

    Attributes:
        num_sequences: sequences of its data-parallel rank.
        sequence_length: tokens per sequence, over the whole context axis.
        num_micro_batches: micro-batches per step.
        compute_bytes: bytes per value of matrix products: 2 for bfloat16.
        activation_checkpointing: full and selective both repeat the collectives of the forward pass.
        pipeline_rank: from 0.
    """

    num_sequences: int
    sequence_length: int
    num_micro_batches: int = 1
    compute_bytes: int = 2
    activation_checkpointing: ActivationCheckpointing = "none"
    pipeline_rank: int = 0


@dataclass(frozen=True)
class RankParameters:
    """Parameters of one pipeline rank before tensor parallelism; `matrices` and `vectors` are those of one block."""

    num_blocks: int
    matrices: int
    vectors: int
    embedding: int
    head: int

    def per_tensor_rank(self, layout: LayoutConfig, replicated: int = 0) -> tuple[float, float]:
        """Parameters of all blocks, and of embedding and head; `replicated` weights of a block are not sharded."""
        block = (self.matrices - replicated) / layout.tensor + replicated + self.vectors
        return self.num_blocks * block, (self.embedding + self.head) / layout.tensor


def rank_parameters(config: ModelConfig, layout: LayoutConfig, pipeline_rank: int = 0) -> RankParameters:
    """Parameters of all stages of one pipeline rank."""
    width, count = config.hidden_size, num_stages(layout)
    matrices, vectors = _mean_block(config)
    stages = stage_indices(pipeline_rank, layout)
    blocks = sum((n + 1) * config.num_layers // count - n * config.num_layers // count for n in stages)
    embedding = config.vocab_size * width
    head = embedding if count - 1 in stages and not (config.tie_embeddings and count == 1) else 0
    return RankParameters(blocks, matrices, vectors, embedding if 0 in stages else 0, head)


@cached
def _mean_block(config: ModelConfig) -> tuple[int, int]:
    """Weights in matrices and in vectors of a block, on average."""
    blocks = count_blocks(weight_shapes(config))
    sizes = [(number * prod(shape), len(shape) > 1) for block, number in blocks for shape in block.values()]
    matrices = sum(size for size, is_matrix in sizes if is_matrix)
    return matrices // config.num_layers, (sum(size for size, _ in sizes) - matrices) // config.num_layers


def communication_bytes(config: ModelConfig, layout: LayoutConfig, spec: StepSpec) -> dict[str, float]:
    """Bytes sent by one rank in one step along each axis of a complete layout.

    replicate: all-reduce of gradients; data: all-gather of weights and reduce-scatter of gradients over shard x context;
    context, tensor and pipeline: activations and their gradients. A few scalars are left out.
    """
    sent = {
        "replicate": 0.0,
        "data": 0.0,
        "context": _context_bytes(config, layout, spec),
        "tensor": _tensor_bytes(config, layout, spec),
        "pipeline": _pipeline_bytes(config, layout, spec),
    }
    data_ranks = layout.data_ranks
    rank = rank_parameters(config, layout, spec.pipeline_rank)
    blocks, ends = rank.per_tensor_rank(layout, replicated_kv_weights(config, layout))
    ends += config.hidden_size if rank.head or num_stages(layout) == 1 else 0  # final norm
    if data_ranks > 1:
        reshard = reshards_after_forward(layout)
        micro_batches = spec.num_micro_batches if layout.pipeline == 1 else 1
        gathers = 2 * spec.num_micro_batches if reshard else micro_batches
        gathered = blocks * spec.compute_bytes * gathers + ends * FP32_BYTES * micro_batches
        sent["data"] = (data_ranks - 1) / data_ranks * (gathered + (blocks + ends) * FP32_BYTES)
    if layout.replicate > 1:
        gradients = (blocks + ends) / data_ranks * FP32_BYTES
        sent["replicate"] = 2 * (layout.replicate - 1) / layout.replicate * gradients
    return sent


def reshards_after_forward(layout: LayoutConfig) -> bool:
    """machine.layout.reshard_after_forward, or its derived value."""
    return layout.pipeline == 1 if layout.reshard_after_forward is None else layout.reshard_after_forward


def replicated_kv_weights(config: ModelConfig, layout: LayoutConfig) -> int:
    """Key and value weights of a block that tensor parallelism replicates, because heads do not divide by ranks."""
    if config.num_kv_heads % layout.tensor == 0:
        return 0
    return 2 * config.hidden_size * config.num_kv_heads * config.head_dim


def _tensor_bytes(config: ModelConfig, layout: LayoutConfig, spec: StepSpec) -> float:
    """Two pairs of matrices per block, each with an all-reduce (or all-gather and reduce-scatter); embedding and head."""
    size = layout.tensor
    if size == 1:
        return 0.0
    rank = rank_parameters(config, layout, spec.pipeline_rank)
    tokens = spec.num_sequences * spec.sequence_length // layout.context
    stream = tokens * config.hidden_size
    ratio = (size - 1) / size
    partial_gradients = rank.num_blocks * replicated_kv_weights(config, layout)
    if layout.sequence_parallel:
        collectives = 4 + 4 + (3 if spec.activation_checkpointing != "none" else 0)
        sent = rank.num_blocks * collectives * ratio * stream * spec.compute_bytes
        partial_gradients += rank.num_blocks * rank.vectors + (config.hidden_size if rank.head else 0)
    else:
        all_reduces = 2 + 2 + (1 if spec.activation_checkpointing != "none" else 0)
        sent = rank.num_blocks * all_reduces * 2 * ratio * stream * spec.compute_bytes
    sent += 2 * ratio * partial_gradients / layout.data_ranks * FP32_BYTES
    if rank.embedding:  # all-reduce or reduce-scatter of embeddings, all-gather of their gradient
        sent += (2 + layout.sequence_parallel) * ratio * stream * FP32_BYTES
    if rank.head:  # all-gather of the sequence, gradient of the hidden states, three values per token for the loss
        sent += (2 + layout.sequence_parallel) * ratio * stream * FP32_BYTES
        sent += 2 * ratio * 3 * tokens * FP32_BYTES
    return sent


def _context_bytes(config: ModelConfig, layout: LayoutConfig, spec: StepSpec) -> float:
    """Keys and values of each block and their gradients: all-gather, all-to-all over heads, or ring."""
    size = layout.context
    if size == 1:
        return 0.0
    tokens = spec.num_sequences * spec.sequence_length
    keys_values = 2 * tokens * max(1, config.num_kv_heads // layout.tensor) * config.head_dim
    passes = 3 if spec.activation_checkpointing != "none" else 2
    if layout.context_method == "ulysses":
        queries_outputs = 2 * tokens * config.num_heads // layout.tensor * config.head_dim
        sent = (size - 1) / size * (queries_outputs + keys_values) / size
    elif layout.context_method == "ring":
        sent = (size - 1) * keys_values / size
    else:
        sent = (size - 1) / size * keys_values
    return rank_parameters(config, layout, spec.pipeline_rank).num_blocks * passes * sent * spec.compute_bytes


def _pipeline_bytes(config: ModelConfig, layout: LayoutConfig, spec: StepSpec) -> float:
    """Hidden states to the next stage and gradients to the previous one, between devices."""
    if layout.pipeline == 1:
        return 0.0
    count, stages = num_stages(layout), stage_indices(spec.pipeline_rank, layout)
    tokens = spec.num_sequences * spec.sequence_length // layout.context
    tokens //= layout.tensor if layout.sequence_parallel else 1
    neighbours = [n for s in stages for n in (s - 1, s + 1) if 0 <= n < count and n not in stages]
    return len(neighbours) * tokens * config.hidden_size * FP32_BYTES
