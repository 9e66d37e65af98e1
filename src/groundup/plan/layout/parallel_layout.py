"""Parallel layout: derivation of its shard axis, and checks against the model.

Refused are axes whose product is not the number of devices, sizes that do not divide, and combinations for which PyTorch
computes wrong gradients silently (found by comparison with one process: tests/parallel, book/parallel.md).
"""

import math

from groundup.artifacts.errors import UserError
from groundup.plan.checks import engine_support
from groundup.plan.layout.pipeline_schedule import SCHEDULES, num_stages
from groundup.plan.shape.masked_spans import corrupted_lengths
from groundup.plan.time.size_warmup import SizeWarmup, check_data_ranks, initial_sequences
from groundup.recipe import ModelConfig, Recipe
from groundup.recipe.layout_config import LayoutConfig
from groundup.recipe.machine_config import MachineConfig
from groundup.recipe.train_config import TrainConfig


def complete_layout(layout: LayoutConfig, devices: int) -> LayoutConfig:
    """`layout` with its shard axis derived. Raises UserError if the product of the axes is not `devices`."""
    complete = layout
    if layout.shard is None:
        complete = layout.model_copy(update={"shard": max(1, devices // layout.num_devices)})
    if complete.num_devices != devices:
        sizes = {axis: getattr(layout, axis) for axis in ("replicate", "shard", "context", "tensor", "pipeline")}
        product = " x ".join(f"{axis} {size}" for axis, size in sizes.items() if size not in (1, None))
        raise UserError(
            f"machine.layout: {product or 'shard 1'} = {layout.num_devices} devices, expected {devices}",
            hint="leave machine.layout.shard out, and let the other axes divide the number of devices",
        )
    return complete


def configured_devices(machine: MachineConfig) -> int:
    """Processes on this machine: machine.devices, or the product of the layout axes."""
    return machine.devices or machine.layout.num_devices


def planned_devices(recipe: Recipe) -> int:
    """Devices of all machines: budget.devices if more than 1, else those of this machine."""
    return recipe.budget.devices if recipe.budget.devices > 1 else configured_devices(recipe.machine)


def check_layout(layout: LayoutConfig, config: ModelConfig, train: TrainConfig | None = None) -> None:
    """Raises UserError if a complete layout cannot compute `config`."""
    if train is not None:
        engine_support.check_engine_layout(layout, config, train)
    _check_parts(layout, config)
    _check_tensor(layout, config)
    _check_experts(layout, config)
    _check_pipeline(layout, config)
    if layout.context > 1 and layout.context_method == "ulysses":
        _check_divides("context", layout.context, "query heads per device", config.num_heads // layout.tensor)
    if layout.context > 1 and layout.context_method == "ring":
        unsupported = (
            "attention_softcap"
            if config.attention_softcap
            else config.position_embedding in ("relative", "alibi") and "position_embedding"
        )
        if unsupported:
            raise UserError(
                f"machine.layout.context_method = 'ring' with model.{unsupported}: not supported by ring attention",
                hint="set machine.layout.context_method=all-gather",
            )
    if train is not None and train.sequence_length is not None:
        _check_lengths(layout, config, train, train.sequence_length)
        if train.batch_tokens is not None:
            _check_batch(layout, train, train.sequence_length, train.batch_tokens)


def _check_parts(layout: LayoutConfig, config: ModelConfig) -> None:
    """Raises UserError for an axis over which a part of the model is not divided."""
    cross = config.architecture == "encoder_decoder"
    stacks_have_positions = cross and config.position_embedding not in ("rope", "relative")
    for axis, part, has in (
        ("tensor", "latent_attention", config.latent_attention is not None),
        ("context", "latent_attention", config.latent_attention is not None),
        ("tensor", "state_space", config.state_space is not None),
        ("context", "state_space", config.state_space is not None),
        ("tensor", "gated_delta", config.gated_delta is not None),
        ("context", "gated_delta", config.gated_delta is not None),
        ("tensor", "attention_gate", config.attention_gate),
        ("tensor", "attention_sinks", config.attention_sinks),
        ("context", "attention_sinks", config.attention_sinks),
        ("tensor", "relative_bias_per_layer", config.relative_bias_per_layer),
        ("context", "relative_bias_per_layer", config.relative_bias_per_layer),
        ("context", f"position_embedding = {config.position_embedding}", stacks_have_positions),
        ("context", "norm_placement = post", cross and config.norm_placement == "post"),
        ("expert", "moe.expert_bias", config.moe is not None and config.moe.expert_bias),
    ):
        if (size := getattr(layout, axis)) > 1 and has:
            raise UserError(
                f"machine.layout.{axis} = {size} with model.{part}: not supported",
                hint="use machine.layout.shard for all devices",
            )


def _check_tensor(layout: LayoutConfig, config: ModelConfig) -> None:
    if layout.tensor == 1:
        return
    _check_divides("tensor", layout.tensor, "model.num_heads", config.num_heads)
    if config.moe is None or any(map(config.moe.is_dense, range(config.num_layers))):
        _check_divides("tensor", layout.tensor, "model.intermediate_size", config.intermediate_size)
    if (layout.tensor - 1) * vocab_parallel_rows(config.vocab_size, layout.tensor) >= config.vocab_size:
        raise UserError(
            f"machine.layout.tensor = {layout.tensor} leaves a device without any of model.vocab_size = {config.vocab_size}",
            hint="set machine.layout.tensor lower",
        )
    if config.hidden_size % layout.data_ranks:
        raise UserError(
            f"model.hidden_size = {config.hidden_size}, expected a multiple of shard x context = "
            f"{layout.data_ranks} with tensor parallelism",
            hint="use machine.layout.replicate for some of the devices",
        )


def vocab_parallel_rows(vocab_size: int, ranks: int) -> int:
    """Rows of the vocabulary on each tensor parallel rank; the last one has the rest. As torch.chunk and DTensor."""
    return -(-vocab_size // ranks)


def _check_experts(layout: LayoutConfig, config: ModelConfig) -> None:
    if layout.expert == 1:
        return
    if config.moe is None:
        raise UserError(
            f"machine.layout.expert = {layout.expert} without a mixture of experts",
            hint="leave machine.layout.expert out, or set model.moe",
        )
    _check_divides("expert", layout.expert, "model.moe.num_experts", config.moe.num_experts)
    _check_divides("expert", layout.expert, "shard x context", layout.data_ranks)
    expert_shards = layout.data_ranks // layout.expert
    for name, width in (("intermediate_size", config.moe.intermediate_size), ("hidden_size", config.hidden_size)):
        if width % expert_shards:
            raise UserError(
                f"{name} of the experts = {width}, expected a multiple of shard x context / expert = {expert_shards}",
                hint="set machine.layout.expert higher, or use machine.layout.replicate for some of the devices",
            )


def _check_pipeline(layout: LayoutConfig, config: ModelConfig) -> None:
    if layout.pipeline == 1:
        return
    if config.architecture == "encoder_decoder":
        raise UserError(
            f"machine.layout.pipeline = {layout.pipeline} with an encoder_decoder: not supported",
            hint="use machine.layout.shard or tensor",
        )
    if config.tie_embeddings:
        raise UserError(
            f"machine.layout.pipeline = {layout.pipeline} with model.tie_embeddings: the first and last "
            "stages would train separate copies of the embedding",
            hint="set model.tie_embeddings=false, or use machine.layout.shard",
        )
    if num_stages(layout) > config.num_layers:
        raise UserError(
            f"machine.layout: {num_stages(layout)} pipeline stages, expected at most model.num_layers = {config.num_layers}",
            hint="reduce machine.layout.pipeline or machine.layout.stages_per_device",
        )
    if SCHEDULES[layout.pipeline_schedule].zero_bubble and layout.reshard_after_forward:
        raise UserError(
            f"machine.layout.pipeline_schedule = {layout.pipeline_schedule!r} with "
            "reshard_after_forward: weight gradients would be wrong, because unsharded weights are freed before them",
            hint="leave machine.layout.reshard_after_forward out, or set machine.layout.pipeline_schedule=1f1b",
        )


def _check_lengths(layout: LayoutConfig, config: ModelConfig, train: TrainConfig, length: int) -> None:
    """Every sequence length of the training must be divisible among the ranks that share a sequence."""
    parts = layout.context * (2 if layout.context > 1 and layout.context_method == "all-gather" else 1)
    if layout.sequence_parallel:
        parts = math.lcm(parts, layout.context * layout.tensor)
    warmup = SizeWarmup(length, train.initial_sequence_length, 1, "train.initial_sequence_length")
    for size in (length >> doublings for doublings in range(warmup.num_doublings, -1, -1)):
        name = "train.sequence_length" if size == length else "train.initial_sequence_length"
        lengths, made = [size], ""
        if config.architecture == "encoder_decoder":
            lengths = list(corrupted_lengths(size, train.mask_rate, train.mean_span_length))
            made = f" makes sequences of {lengths[0]} and {lengths[1]} tokens"
        if any(each % parts for each in lengths):
            hint = f"set {name}={max(1, size // parts) * parts}"
            if made:
                hint = "set machine.layout.sequence_parallel=false, and use machine.layout.shard in place of context"
            raise UserError(f"{name} = {size}{made}, expected a multiple of {parts} for this layout", hint=hint)


def _check_batch(layout: LayoutConfig, train: TrainConfig, length: int, batch_tokens: int) -> None:
    replicas = layout.replicate * (layout.shard or 1)
    batch = SizeWarmup(batch_tokens // length, initial_sequences(train, length), 1, "train.initial_batch_tokens")
    check_data_ranks(batch, replicas, length)
    sequences = batch.size_at(0) // replicas
    if layout.pipeline > 1 and sequences < num_stages(layout):
        knob = "batch_tokens" if batch.initial is None else "initial_batch_tokens"
        raise UserError(
            f"train.{knob} = {getattr(train, knob)}: {sequences} sequences per pipeline, expected at least "
            f"{num_stages(layout)}, its number of stages",
            hint=f"set train.{knob}={num_stages(layout) * length * replicas} or more",
        )


def _check_divides(axis: str, size: int, name: str, value: int) -> None:
    if value % size:
        raise UserError(
            f"machine.layout.{axis} = {size} does not divide {name} = {value}",
            hint=f"set machine.layout.{axis}={math.gcd(size, value)}",
        )
