"""Whether a layout of devices can compute this model, and what is left open in it.

Refused here, before anything is spent: grids that do not multiply, parts that do not divide, and what PyTorch would
compute wrongly without a word (found by comparing every gradient with one process: tests/parallel, book/parallel.md).
"""

import math

from groundup.artifacts.errors import UserError
from groundup.plan import engine_support
from groundup.recipe import ModelConfig, Recipe
from groundup.recipe.layout_config import LayoutConfig
from groundup.recipe.machine_config import MachineConfig
from groundup.recipe.train_config import TrainConfig

ZERO_BUBBLE = ("interleaved-zero-bubble", "zero-bubble-v", "dualpipe-v")
"""Schedules that compute the gradients of weights after those of activations."""

V_SCHEDULES = ("zero-bubble-v", "dualpipe-v")
SINGLE_STAGE = ("gpipe", "1f1b")


def complete_layout(layout: LayoutConfig, devices: int) -> LayoutConfig:
    """`layout` with its shard axis filled in. Raises UserError when the axes do not multiply to `devices`."""
    others = layout.replicate * layout.context * layout.tensor * layout.pipeline
    shard = layout.shard if layout.shard is not None else max(1, devices // others)
    if shard * others != devices:
        axes = {"replicate": layout.replicate, "shard": layout.shard, "context": layout.context}
        axes |= {"tensor": layout.tensor, "pipeline": layout.pipeline}
        product = (
            " x ".join(f"{name} {size}" for name, size in axes.items() if size not in (1, None)) or "shard 1"
        )
        raise UserError(
            f"machine.layout: {product} is {math.prod(size or 1 for size in axes.values())} devices, and there are "
            f"{devices}",
            hint="leave machine.layout.shard out, and let the other axes divide the number of devices",
        )
    return layout.model_copy(update={"shard": shard})


def configured_devices(machine: MachineConfig) -> int:
    """How many processes a run on one machine has: as many as it is told, else as the layout's axes multiply to."""
    layout = machine.layout
    axes = (layout.replicate, layout.shard or 1, layout.context, layout.tensor, layout.pipeline)
    return machine.devices or math.prod(axes)


def planned_devices(recipe: Recipe) -> int:
    """Of all machines: what the budget has, else what this machine has."""
    return recipe.budget.devices if recipe.budget.devices > 1 else configured_devices(recipe.machine)


def num_stages(layout: LayoutConfig) -> int:
    """Pieces into which a pipeline cuts the model."""
    if layout.pipeline == 1 or layout.pipeline_schedule in SINGLE_STAGE:
        return layout.pipeline
    return layout.pipeline * (2 if layout.pipeline_schedule in V_SCHEDULES else layout.stages_per_device)


def stage_indices(pipeline_rank: int, layout: LayoutConfig) -> list[int]:
    """The pieces on one device of a pipeline: there and back again, or every so many."""
    stages = num_stages(layout)
    if layout.pipeline > 1 and layout.pipeline_schedule in V_SCHEDULES:
        return [pipeline_rank, stages - 1 - pipeline_rank]
    return list(range(pipeline_rank, stages, layout.pipeline))


def check_layout(layout: LayoutConfig, config: ModelConfig, train: TrainConfig | None = None) -> None:
    """Raises UserError for a layout, complete, that cannot compute `config`, naming what was found and expected."""
    if train is not None:
        engine_support.check_engine_layout(layout, config, train)
    _check_tensor(layout, config)
    _check_experts(layout, config)
    _check_pipeline(layout, config)
    if layout.context > 1 and layout.context_method == "ulysses":
        _check_divides(
            "context", layout.context, "query heads of a device", config.num_heads // layout.tensor
        )
    if layout.context > 1 and layout.context_method == "ring":
        odd = (
            "attention_softcap"
            if config.attention_softcap
            else config.position_embedding == "relative" and "position_embedding"
        )
        if odd:
            raise UserError(
                f"machine.layout.context_method = 'ring' with model.{odd}: a ring has plain products only",
                hint="set machine.layout.context_method=all-gather",
            )
    if train is not None:
        _check_training(layout, train)


def _check_tensor(layout: LayoutConfig, config: ModelConfig) -> None:
    if layout.tensor == 1:
        return
    _check_divides("tensor", layout.tensor, "model.num_heads", config.num_heads)
    if config.moe is None or config.moe.num_dense_layers:
        _check_divides("tensor", layout.tensor, "model.intermediate_size", config.intermediate_size)
    _check_divides("tensor", layout.tensor, "model.vocab_size", config.vocab_size)
    assert layout.shard is not None
    if config.hidden_size % (layout.shard * layout.context):
        raise UserError(
            f"model.hidden_size = {config.hidden_size}: with tensor parallelism, expected a multiple of "
            f"shard x context = {layout.shard * layout.context}",
            hint="use machine.layout.replicate for some of the devices",
        )


def _check_experts(layout: LayoutConfig, config: ModelConfig) -> None:
    if layout.expert == 1:
        return
    if config.moe is None:
        raise UserError(
            f"machine.layout.expert = {layout.expert}, but the model is no mixture of experts",
            hint="leave machine.layout.expert out, or set model.moe",
        )
    _check_divides("expert", layout.expert, "model.moe.num_experts", config.moe.num_experts)
    assert layout.shard is not None
    _check_divides("expert", layout.expert, "shard x context", layout.shard * layout.context)
    rest = layout.shard * layout.context // layout.expert
    for name, width in (
        ("intermediate_size", config.moe.intermediate_size),
        ("hidden_size", config.hidden_size),
    ):
        if width % rest:
            raise UserError(
                f"the experts' {name} = {width}: expected a multiple of shard x context / expert = {rest}",
                hint="set machine.layout.expert higher, or use machine.layout.replicate for some of the devices",
            )


def _check_pipeline(layout: LayoutConfig, config: ModelConfig) -> None:
    if layout.pipeline == 1:
        return
    if config.architecture == "encoder_decoder":
        raise UserError(
            f"machine.layout.pipeline = {layout.pipeline}: an encoder_decoder has two stacks, expected one",
            hint="use machine.layout.shard or tensor",
        )
    if config.tie_embeddings:
        raise UserError(
            f"machine.layout.pipeline = {layout.pipeline} with model.tie_embeddings: the first and the last device "
            "would each train a copy of the matrix",
            hint="set model.tie_embeddings=false, or use machine.layout.shard",
        )
    if num_stages(layout) > config.num_layers:
        raise UserError(
            f"machine.layout: {num_stages(layout)} pipeline stages, and model.num_layers = {config.num_layers}",
            hint="use fewer devices or fewer stages_per_device",
        )
    if layout.pipeline_schedule in ZERO_BUBBLE and layout.reshard_after_forward:
        raise UserError(
            f"machine.layout.pipeline_schedule = {layout.pipeline_schedule!r} with reshard: "
            "its late weight gradients would be wrong, "
            "because the gathered weights are gone by then, and PyTorch does not say so",
            hint="leave machine.layout.reshard_after_forward out, or set machine.layout.pipeline_schedule=1f1b",
        )


def _check_training(layout: LayoutConfig, train: TrainConfig) -> None:
    length, batch = train.sequence_length, train.batch_tokens
    if length is not None:
        parts = layout.context * (2 if layout.context > 1 and layout.context_method == "all-gather" else 1)
        if layout.sequence_parallel:
            parts = math.lcm(parts, layout.context * layout.tensor)
        if length % parts:
            raise UserError(
                f"train.sequence_length = {length}: this layout cuts a sequence into {parts} equal parts",
                hint=f"set train.sequence_length={max(1, length // parts) * parts}",
            )
    if length is not None and batch is not None and layout.pipeline > 1:
        assert layout.shard is not None
        rows = batch // length // (layout.replicate * layout.shard)
        if rows < num_stages(layout):
            raise UserError(
                f"train.batch_tokens = {batch}: {rows} sequences for each pipeline of {num_stages(layout)} stages, "
                "expected at least as many as stages",
                hint=f"set train.batch_tokens={num_stages(layout) * length * layout.replicate * layout.shard} or more",
            )


def _check_divides(axis: str, size: int, name: str, value: int) -> None:
    if value % size:
        raise UserError(
            f"machine.layout.{axis} = {size} does not divide {name} = {value}",
            hint=f"set machine.layout.{axis}={math.gcd(size, value)}",
        )
