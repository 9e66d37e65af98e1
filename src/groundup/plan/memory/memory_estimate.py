"""Estimate of the memory of training on each device: the parts of the moment that needs most.

    loss        all activations, the logits of a chunk of tokens, and the gradient of the head
    recompute   with activation checkpointing: what blocks keep, and all activations of one of them
    backward    gradients of all weights, and those of the first block's activations
    update      gradients of all weights, and what the optimizer allocates for a while

Of several micro-batches, each but the first finds the gradients of all weights there.
"""

from dataclasses import dataclass, fields
from math import prod
from typing import Literal

from groundup.artifacts.machine import ActivationCheckpointing
from groundup.plan.hardware import device_spec
from groundup.plan.layout.communication import (
    FP32_BYTES,
    rank_parameters,
    replicated_kv_weights,
    reshards_after_forward,
)
from groundup.plan.layout.pipeline_schedule import num_stages, stage_indices
from groundup.plan.memory.saved_activations import ForwardPass, block_activations, end_activations, kept_activations
from groundup.plan.memory.state_memory import state_bytes
from groundup.plan.shape.masked_spans import corrupted_lengths
from groundup.plan.shape.parameter_count import count_blocks
from groundup.plan.shape.weight_shapes import WeightShapes, num_encoder_layers, weight_shapes
from groundup.recipe import ModelConfig
from groundup.recipe.layout_config import LayoutConfig
from groundup.recipe.train_config import TrainConfig

LOGIT_CHUNKS = {"cpu": 1024, "cuda": 4096}
FROZEN_CROSS_ENTROPY_CHUNK = 256
"""Tokens per chunk of logits, by kind of device, and where the head is frozen; see model/loss.py."""

PROCESS_BYTES = {"cpu": 0.36e9, "cuda": 0.5e9}
"""Python and its libraries, resident (0.34 GB before the model, benchmarks/plan_memory.py); context and workspaces of CUDA
(assumed)."""
ALLOCATOR_SLACK = 0.08
"""Of the tensors of a step: holes in the heap of a CPU process, which keeps what it frees (measured, likewise)."""

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
    """Memory of a step on `micro_batch` sequences at a time, on pipeline rank 0.

    Weights, gradients and two moments of AdamW: 4 + 4 + 8 bytes per parameter (Rajbhandari et al. 2020, section 3.1, in
    float32), sharded over the tensor, pipeline, shard and context axes. What activations take is in
    plan/memory/saved_activations.py.

    >>> config = ModelConfig(vocab_size=50_304, hidden_size=768, num_layers=12, num_heads=12)
    >>> memory = estimate_training_memory(config, sequence_length=1024, micro_batch=8)
    >>> f"{memory.total / 1e9:.1f} GB"
    '8.0 GB'
    """
    shapes = weight_shapes(config)
    state = state_bytes(config, shapes, train, layout)
    step = forward_pass(config, sequence_length, micro_batch, layout, train, kind)
    blocks = layer_activations(config, step, sequence_length, layout, train)
    kept = [kept_activations(config, each, step, activation_checkpointing) for each in blocks]
    in_flight = pipeline_batches(layout, train, sequence_length, micro_batch)
    ends = end_activations(config, step)
    unsharded, one_block = _unsharded(config, shapes, layout, train)
    grads_exist = _micro_batches(layout, train, sequence_length, micro_batch) > 1
    forward, backward = _loss_bytes(config, step, layout, kind)
    resident = {"weights": state.weights, "optimizer": state.optimizer}
    head_grads = state.gradients if grads_exist else 0.0
    table = config.vocab_size * (config.embedding_size or config.hidden_size) / layout.tensor * FP32_BYTES
    moments = [
        {
            "gradients": head_grads,
            "unsharded": unsharded,
            "activations": in_flight * sum(kept) + ends,
            "logits": forward,
        },
        {
            "gradients": head_grads,
            "unsharded": unsharded,
            "activations": in_flight * sum(kept) + ends,
            "logits": backward,
        },
        {"gradients": state.gradients, "unsharded": one_block, "logits": table if config.tie_embeddings else 0.0},
        {"gradients": state.gradients, "buffers": state.update},
    ]
    if activation_checkpointing != "none":
        recomputed = max(full - less for full, less in zip(blocks, kept, strict=True))
        moments.append(
            {
                "gradients": head_grads or table, "unsharded": one_block,
                "activations": in_flight * sum(kept) + recomputed, "buffers": recomputed / 4,
            }
        )  # fmt: skip
    largest = max(moments, key=lambda parts: sum(parts.values()))
    parts = dict.fromkeys(("gradients", "unsharded", "activations", "logits", "buffers"), 0.0) | largest | resident
    slack = 0.0
    if kind == "cpu":
        # Neither gradients nor what the optimizer allocates fit into the holes that activations leave in the heap.
        parts["gradients"], parts["buffers"] = state.gradients, max(parts["buffers"], state.update)
        slack = ALLOCATOR_SLACK * sum(parts.values())
        parts["buffers"] += state.weights + state.optimizer  # of the last checkpoint, which a thread writes
    by_layer = tuple(kept) if parts["activations"] else ()
    return MemoryEstimate(**parts, slack=slack, process=PROCESS_BYTES[kind], activations_by_layer=by_layer)


def forward_pass(
    config: ModelConfig,
    sequence_length: int,
    micro_batch: int,
    layout: LayoutConfig,
    train: TrainConfig,
    kind: DeviceKind,
) -> ForwardPass:
    """The tokens of one micro-batch on one device."""
    return ForwardPass(
        rows=micro_batch,
        length=max(1, sequence_length // layout.context),
        keys=sequence_length,
        products=FP32_BYTES if train.precision == "float32" else 2,
        stream=2 if train.precision == "bfloat16-pure" else FP32_BYTES,
        fused=kind != "cpu",
        documents=train.document_mask or train.packing == "best-fit",
        tensor=layout.tensor,
        sequence_parallel=layout.sequence_parallel and layout.tensor > 1,
    )


def layer_activations(
    config: ModelConfig, step: ForwardPass, sequence_length: int, layout: LayoutConfig, train: TrainConfig
) -> list[float]:
    """Bytes that each block of pipeline rank 0 keeps; of an encoder-decoder, first those of the encoder."""
    if config.architecture == "encoder_decoder":
        lengths = corrupted_lengths(sequence_length, train.mask_rate, train.mean_span_length)
        source, target = (step.with_length(length) for length in lengths)
        encoder = [block_activations(config, source, layer) for layer in range(num_encoder_layers(config))]
        return encoder + [block_activations(config, target, layer, memory=source) for layer in range(config.num_layers)]
    types, count = config.layer_types, num_stages(layout)
    layers = [
        layer
        for stage in stage_indices(0, layout)
        for layer in range(stage * config.num_layers // count, (stage + 1) * config.num_layers // count)
    ]
    kinds = {
        (types[layer], layer == 0, config.moe is not None and config.moe.is_dense(layer)): layer for layer in layers
    }
    bytes_of = {kind: block_activations(config, step, layer, types[layer]) for kind, layer in kinds.items()}
    return [
        bytes_of[types[layer], layer == 0, config.moe is not None and config.moe.is_dense(layer)] for layer in layers
    ]


def _micro_batches(layout: LayoutConfig, train: TrainConfig, sequence_length: int, micro_batch: int) -> int:
    if train.batch_tokens is None:
        return 2
    return train.batch_tokens // (sequence_length * micro_batch * layout.replicate * (layout.shard or 1))


def pipeline_batches(layout: LayoutConfig, train: TrainConfig, sequence_length: int, micro_batch: int) -> int:
    """Micro-batches whose activations the first rank of a pipeline keeps: all of them with gpipe, else one for each rank."""
    count = _micro_batches(layout, train, sequence_length, micro_batch)
    return count if layout.pipeline > 1 and layout.pipeline_schedule == "gpipe" else layout.pipeline


def _unsharded(
    config: ModelConfig, shapes: WeightShapes, layout: LayoutConfig, train: TrainConfig
) -> tuple[float, float]:
    """Casts or gathered weights, and gradients before they are reduced: at the loss, and while one block is computed."""
    product_bytes = FP32_BYTES if train.precision == "float32" else 2
    stored_bytes = 2 if train.precision == "bfloat16-pure" else FP32_BYTES
    rank = rank_parameters(config, layout)
    blocks, ends = rank.per_tensor_rank(layout, replicated_kv_weights(config, layout))
    block = blocks / max(1, rank.num_blocks)
    if layout.data_ranks > 1:
        at_once = 2 * block if reshards_after_forward(layout) else blocks
        gathered = ends * stored_bytes + at_once * product_bytes + block * FP32_BYTES
        return gathered, gathered
    if product_bytes == stored_bytes:
        return 0.0, 0.0
    if layout.num_devices == 1:
        blocks = sum(
            count * prod(shape)
            for block_shapes, count in count_blocks(shapes)
            for name, shape in block_shapes.items()
            if len(shape) > 1 and "router" not in name
        )
    return blocks * product_bytes, block * product_bytes


def _loss_bytes(config: ModelConfig, step: ForwardPass, layout: LayoutConfig, kind: DeviceKind) -> tuple[float, float]:
    """Beside the activations: a chunk of logits with its gradient, hidden states and their gradient, and that of the head; in
    the forward pass, and in the backward pass, which scales both gradients."""
    width, tokens = config.embedding_size or config.hidden_size, step.tokens
    if config.architecture == "encoder":
        tokens = 0.15 * tokens if config.masked_lm_head else 0
    rows = config.vocab_size / layout.tensor
    if layout.pipeline > 1 and num_stages(layout) - 1 not in stage_indices(0, layout):
        return 0.0, 0.0
    chunk = min(tokens, LOGIT_CHUNKS[kind])
    logits = chunk * rows * (step.products + FP32_BYTES * (1 if config.logit_softcap is None else 2))
    cast = 2 * rows * width * step.products if step.products < FP32_BYTES else rows * width * FP32_BYTES
    hidden = tokens * width * step.stream
    table = rows * width * FP32_BYTES
    return logits + cast + table + 2 * hidden, 2 * (table + hidden)
