"""Bytes that a rank sends in one step, by axis: closed formulas, which benchmarks/parallel.py holds against the counted.

What a collective of n ranks sends at least is in parallel/comm_counter.py: (n - 1) / n of the whole for a gather, a scatter and
an exchange, twice that for a sum. Formulas are for decoders without biases, as plan/parameter_count.py counts them.
"""

from dataclasses import dataclass
from typing import Literal

from groundup.plan.parallel_layout import num_stages, stage_indices
from groundup.recipe import ModelConfig
from groundup.recipe.layout_config import LayoutConfig

FP32_BYTES = 4
"""Bytes of a number of the stream, of a gradient and of a master weight: float32."""


@dataclass(frozen=True)
class StepSpec:
    """What one rank does in a step.

    Attributes:
        sequences: rows of the batch that it sees.
        length: tokens in each, over all of the context axis.
        micro_batches: into how many pieces they fall.
        product: bytes of a number in a matrix product: 2 for bfloat16.
        recompute: what blocks compute again; their collectives are, in both kinds.
        place: of the rank in the pipeline, from 0.
    """

    num_sequences: int
    sequence_length: int
    num_micro_batches: int = 1
    compute_bytes: int = 2
    activation_checkpointing: Literal["none", "selective", "full"] = "none"
    pipeline_rank: int = 0


@dataclass(frozen=True)
class RankParameters:
    """Parameters of one pipeline place, whole over its other axes: of a block's matrices and vectors, and of the ends."""

    num_blocks: int
    matrices: int
    vectors: int
    embedding: int
    head: int

    def per_tensor_rank(self, layout: LayoutConfig, replicated: int = 0) -> tuple[float, float]:
        """After tensor parallelism: of all blocks, and of the ends. `kept_whole` of a block's matrices are not cut."""
        block = (self.matrices - replicated) / layout.tensor + replicated + self.vectors
        return self.num_blocks * block, (self.embedding + self.head) / layout.tensor


def rank_parameters(config: ModelConfig, layout: LayoutConfig, pipeline_rank: int = 0) -> RankParameters:
    """What one place of the pipeline holds, of all its pieces."""
    width, stages = config.hidden_size, num_stages(layout)
    query, key_value = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    gates = 3 if config.feed_forward in ("swiglu", "geglu") else 2
    matrices = width * (2 * query + 2 * key_value) + gates * width * config.intermediate_size
    vectors = 2 * width + (2 * config.head_dim if config.qk_norm else 0)
    pieces = stage_indices(pipeline_rank, layout)
    blocks = sum((n + 1) * config.num_layers // stages - n * config.num_layers // stages for n in pieces)
    embedding = config.vocab_size * width
    first = embedding if 0 in pieces else 0
    last = embedding if stages - 1 in pieces and not (config.tie_embeddings and stages == 1) else 0
    return RankParameters(blocks, matrices, vectors, first, last)


def communication_bytes(config: ModelConfig, layout: LayoutConfig, spec: StepSpec) -> dict[str, float]:
    """Bytes sent by one rank in one step along each axis of a complete layout; a few words between all come to it.

    replicate: sums of gradients; data: weights gathered and gradients scattered over shard x context; context, tensor and
    pipeline: activations and their gradients.
    """
    assert layout.shard is not None
    sent = {
        "replicate": 0.0,
        "data": 0.0,
        "context": _context_bytes(config, layout, spec),
        "tensor": _tensor_bytes(config, layout, spec),
        "pipeline": _pipeline_bytes(config, layout, spec),
    }
    data = layout.shard * layout.context
    part = rank_parameters(config, layout, spec.pipeline_rank)
    blocks, ends = part.per_tensor_rank(layout, replicated_kv_weights(config, layout))
    ends += config.hidden_size if part.head or num_stages(layout) == 1 else 0  # the final norm
    if data > 1:
        again = (
            layout.reshard_after_forward if layout.reshard_after_forward is not None else layout.pipeline == 1
        )
        gathers = (2 if again else 1) * spec.num_micro_batches if again or layout.pipeline == 1 else 1
        gathered = blocks * spec.compute_bytes * gathers
        gathered += ends * FP32_BYTES * (spec.num_micro_batches if layout.pipeline == 1 else 1)
        sent["data"] = (data - 1) / data * (gathered + (blocks + ends) * FP32_BYTES)
    if layout.replicate > 1:
        sent["replicate"] = (
            2 * (layout.replicate - 1) / layout.replicate * (blocks + ends) / data * FP32_BYTES
        )
    return sent


def replicated_kv_weights(config: ModelConfig, layout: LayoutConfig) -> int:
    """Weights of a block's matrices that stay whole: keys and values, where there are fewer heads than ranks."""
    if config.num_kv_heads % layout.tensor == 0:
        return 0
    return 2 * config.hidden_size * config.num_kv_heads * config.head_dim


def _tensor_bytes(config: ModelConfig, layout: LayoutConfig, spec: StepSpec) -> float:
    """Two pairs of matrices a block, each with a sum (or a gather and a scatter) forward and back; then both ends."""
    size = layout.tensor
    if size == 1:
        return 0.0
    part = rank_parameters(config, layout, spec.pipeline_rank)
    tokens = spec.num_sequences * spec.sequence_length // layout.context
    stream = tokens * config.hidden_size
    of_whole = (size - 1) / size
    data = (layout.shard or 1) * layout.context
    if layout.sequence_parallel:
        calls = 4 + 4 + (3 if spec.activation_checkpointing != "none" else 0)
        sent = part.num_blocks * calls * of_whole * stream * spec.compute_bytes
        shares = part.num_blocks * (part.vectors + replicated_kv_weights(config, layout))
        shares += config.hidden_size if part.head else 0
        sent += 2 * of_whole * shares / data * FP32_BYTES
    else:
        calls = 2 + 2 + (1 if spec.activation_checkpointing != "none" else 0)
        sent = part.num_blocks * calls * 2 * of_whole * stream * spec.compute_bytes
        sent += 2 * of_whole * part.num_blocks * replicated_kv_weights(config, layout) / data * FP32_BYTES
    if part.embedding:  # the sum of embeddings, and the way back of splitting them
        sent += (2 + layout.sequence_parallel) * of_whole * stream * FP32_BYTES
    if (
        part.head
    ):  # joining the sequence, the gradient of the hidden states, three numbers a token for the loss
        sent += (2 + layout.sequence_parallel) * of_whole * stream * FP32_BYTES
        sent += 2 * of_whole * 3 * tokens * FP32_BYTES
    return sent


def _context_bytes(config: ModelConfig, layout: LayoutConfig, spec: StepSpec) -> float:
    """Keys and values of a block, gathered, exchanged for heads, or passed around; and their gradients."""
    size = layout.context
    if size == 1:
        return 0.0
    tokens = spec.num_sequences * spec.sequence_length
    keys = 2 * tokens * max(1, config.num_kv_heads // layout.tensor) * config.head_dim
    passes = 3 if spec.activation_checkpointing != "none" else 2
    if layout.context_method == "ulysses":
        queries = 2 * tokens * config.num_heads // layout.tensor * config.head_dim
        each = (size - 1) / size * (queries + keys) / size
    elif layout.context_method == "ring":
        each = (size - 1) * keys / size
    else:
        each = (size - 1) / size * keys
    return rank_parameters(config, layout, spec.pipeline_rank).num_blocks * passes * each * spec.compute_bytes


def _pipeline_bytes(config: ModelConfig, layout: LayoutConfig, spec: StepSpec) -> float:
    """Hidden states to the next piece and their gradients to the one before, between devices."""
    if layout.pipeline == 1:
        return 0.0
    stages, mine = num_stages(layout), stage_indices(spec.pipeline_rank, layout)
    tokens = spec.num_sequences * spec.sequence_length // layout.context
    tokens //= layout.tensor if layout.sequence_parallel else 1
    neighbours = [n for piece in mine for n in (piece - 1, piece + 1) if 0 <= n < stages and n not in mine]
    return len(neighbours) * tokens * config.hidden_size * FP32_BYTES
