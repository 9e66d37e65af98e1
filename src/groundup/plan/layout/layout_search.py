"""Layout search: every mesh of the given devices, its micro-batch and checkpointing, ranked by the time of a step.

A mesh is tried if the model and the batch divide by it (parallel_layout.py). For each checkpointing mode the largest
micro-batch that fits is taken, because it has the fewest collectives and calls; several for a pipeline, whose bubble shrinks
with their number. Pure arithmetic: thousands of meshes in a second.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import ActivationCheckpointing
from groundup.plan.hardware import DeviceSpec
from groundup.plan.layout.communication import StepSpec
from groundup.plan.layout.parallel_layout import check_layout
from groundup.plan.layout.pipeline_schedule import supports_micro_batches
from groundup.plan.memory.memory_estimate import DeviceKind, MemoryEstimate, estimate_training_memory
from groundup.plan.time.step_time import StepTime, estimate_step_time
from groundup.recipe import ModelConfig
from groundup.recipe.layout_config import LayoutConfig
from groundup.recipe.train_config import Precision, TrainConfig

MEMORY_FRACTION = 0.9
"""Fraction of the memory of a device that a plan may use."""

MAX_TENSOR, MAX_CONTEXT, MAX_PIPELINE = 16, 64, 64
"""Sizes beyond which an axis is not tried: no published run has more."""

AS_FAST = 0.005
"""Relative difference of step times that an estimate cannot tell apart."""

CHECKPOINTING: tuple[ActivationCheckpointing, ...] = ("none", "selective", "full")


@dataclass(frozen=True)
class LayoutCandidate:
    """A layout that fits: with its micro-batch, checkpointing, step time and memory.

    `seconds`: of a step; `lost`: why it is not the best one, in a few words; empty for the best.
    """

    layout: LayoutConfig
    micro_batch: int
    activation_checkpointing: ActivationCheckpointing
    precision: Precision
    step: StepTime
    memory: MemoryEstimate
    lost: str = ""

    @property
    def seconds(self) -> float:
        return self.step.total

    def describe(self) -> str:
        """The axes in a few words."""
        axes = {axis: getattr(self.layout, axis) for axis in ("replicate", "context", "tensor", "pipeline", "expert")}
        words = [f"shard {self.layout.shard}", *(f"{axis} {size}" for axis, size in axes.items() if size > 1)]
        return " x ".join(words)

    def knobs(self) -> dict[str, str | int]:
        """The knobs of a recipe that choose this layout."""
        sizes = {f"machine.layout.{axis}": getattr(self.layout, axis) for axis in (
            "replicate", "shard", "context", "tensor", "pipeline", "expert",
        )}  # fmt: skip
        sizes = {name: size for name, size in sizes.items() if size != 1 or name.endswith("shard")}
        return sizes | {
            "machine.micro_batch_size": self.micro_batch,
            "machine.activation_checkpointing": self.activation_checkpointing,
            "train.precision": self.precision,
        }


@dataclass(frozen=True)
class LayoutSearch:
    """Layouts in order of step time, one a mesh, and how many meshes were refused for what.

    `least_memory`: bytes of the mesh that needs least, with a micro-batch of one and full checkpointing.
    """

    candidates: list[LayoutCandidate]
    tried: int
    refused: dict[str, int]
    least_memory: float

    @property
    def best(self) -> LayoutCandidate:
        return self.candidates[0]


def search_layouts(
    config: ModelConfig,
    train: TrainConfig,
    device: DeviceSpec,
    devices: int,
    checkpointing: tuple[ActivationCheckpointing, ...] = CHECKPOINTING,
    micro_batch_size: int | None = None,
) -> LayoutSearch:
    """The layouts of `devices` for a training whose batch and sequence length are derived.

    Raises UserError if none fits, with the least memory that one needs.
    """
    assert train.batch_tokens is not None
    assert train.sequence_length is not None
    sequences, length = train.batch_tokens // train.sequence_length, train.sequence_length
    compute_bytes = 4 if train.precision == "float32" else 2
    kind: DeviceKind = "cpu" if device.kind == "cpu" else "cuda"
    found: list[LayoutCandidate] = []
    refused: dict[str, int] = {}
    tried, least = 0, math.inf
    for layout in _meshes(config, sequences, device, devices):
        tried += 1
        try:
            check_layout(layout, config, train)
        except UserError as error:
            reason = _kind_of_refusal(error)
            refused[reason] = refused.get(reason, 0) + 1
            continue
        per_rank = sequences // (layout.replicate * (layout.shard or 1))
        best: LayoutCandidate | None = None
        for mode in checkpointing:
            smallest = estimate_training_memory(config, length, micro_batch_size or 1, layout, mode, train, kind=kind)
            least = min(least, smallest.total)
            if smallest.total > MEMORY_FRACTION * device.memory_bytes:
                continue
            for micro_batch in _micro_batches(per_rank, layout, micro_batch_size):
                memory = estimate_training_memory(config, length, micro_batch, layout, mode, train, kind=kind)
                if memory.total > MEMORY_FRACTION * device.memory_bytes:
                    continue
                spec = StepSpec(per_rank, length, per_rank // micro_batch, compute_bytes, mode)
                step = estimate_step_time(config, layout, spec, device, train.precision)
                if best is None or step.total < best.seconds * 0.999:
                    best = LayoutCandidate(layout, micro_batch, mode, train.precision, step, memory)
                if layout.pipeline == 1:
                    break
        if best is None:
            refused["memory"] = refused.get("memory", 0) + 1
        else:
            found.append(best)
    if not found:
        raise UserError(_describe_failure(tried, refused, least, device, devices))
    found.sort(key=lambda each: each.seconds)
    first, *others = found
    ranked = [first, *(replace(each, lost=_why_lost(each, first)) for each in others)]
    return LayoutSearch(ranked, tried, refused, least)


def first_layout(config: ModelConfig, train: TrainConfig, device: DeviceSpec, devices: int) -> LayoutConfig | None:
    """A mesh that fits with one sequence at a time and full checkpointing; None if there is none. Of those, the plainest."""
    assert train.batch_tokens is not None
    assert train.sequence_length is not None
    kind: DeviceKind = "cpu" if device.kind == "cpu" else "cuda"
    sequences = train.batch_tokens // train.sequence_length
    for layout in _meshes(config, sequences, device, devices):
        if layout.replicate > 1 or not _is_useful(sequences // layout.data_ranks * layout.context, layout):
            continue
        memory = estimate_training_memory(config, train.sequence_length, 1, layout, "full", train, kind=kind)
        if memory.total > MEMORY_FRACTION * device.memory_bytes:
            continue
        try:
            check_layout(layout, config, train)
        except UserError:
            continue
        return layout
    return None


def other_precision(
    best: LayoutCandidate, config: ModelConfig, train: TrainConfig, device: DeviceSpec
) -> LayoutCandidate | None:
    """The best layout with products in 8-bit floats; None where the device has none, or the recipe has set them."""
    if device.peak_flops_8 is None or best.precision not in ("bfloat16", "bfloat16-pure"):
        return None
    try:
        check_layout(best.layout, config, train.model_copy(update={"precision": "float8"}))
    except UserError:  # not on several devices
        return None
    assert train.batch_tokens is not None
    assert train.sequence_length is not None
    per_rank = train.batch_tokens // train.sequence_length // (best.layout.replicate * (best.layout.shard or 1))
    spec = StepSpec(per_rank, train.sequence_length, per_rank // best.micro_batch, 2, best.activation_checkpointing)
    step = estimate_step_time(config, best.layout, spec, device, "float8")
    gain = f"{best.seconds / step.total:.2f} times as fast; products in 8 bits can raise the loss"
    return replace(best, precision="float8", step=step, lost=gain)


def _meshes(config: ModelConfig, sequences: int, device: DeviceSpec, devices: int) -> Iterator[LayoutConfig]:
    """All factorizations of `devices` over the axes, within what the model has and machines hold."""
    heads = config.num_heads
    for tensor in _divisors(devices, min(MAX_TENSOR, heads, 2 * device.devices_per_machine)):
        if heads % tensor:
            continue
        for pipeline in _divisors(devices // tensor, min(MAX_PIPELINE, config.num_layers)):
            for context in _divisors(devices // tensor // pipeline, MAX_CONTEXT):
                data = devices // tensor // pipeline // context
                if sequences % data:
                    continue
                for replicate in _divisors(data, data):
                    if replicate > 1 and data // replicate * context * tensor % device.devices_per_machine:
                        continue  # copies of whole machines, as their links carry the shards
                    for expert in _experts(config, data // replicate * context):
                        yield LayoutConfig(
                            replicate=replicate, shard=data // replicate, context=context, tensor=tensor,
                            pipeline=pipeline, expert=expert,
                        )  # fmt: skip


def _experts(config: ModelConfig, data_ranks: int) -> list[int]:
    if config.moe is None:
        return [1]
    return _divisors(math.gcd(config.moe.num_experts, data_ranks), 64)


def _micro_batches(per_rank: int, layout: LayoutConfig, fixed: int | None) -> list[int]:
    """Sizes to try, the largest first: divisors of the sequences of a rank, with enough of them for a pipeline."""
    if fixed is not None:
        return [fixed] if per_rank % fixed == 0 else []
    sizes = [size for size in reversed(_divisors(per_rank, 512)) if _is_useful(per_rank // size, layout)]
    return sizes if layout.pipeline == 1 else sizes[-3:]


def _is_useful(count: int, layout: LayoutConfig) -> bool:
    return layout.pipeline == 1 or (count >= layout.pipeline and supports_micro_batches(layout, count))


def _divisors(number: int, largest: int) -> list[int]:
    """Divisors of `number` up to `largest`, rising."""
    small = [size for size in range(1, math.isqrt(number) + 1) if number % size == 0]
    return [size for size in sorted({*small, *(number // size for size in small)}) if size <= largest]


def _kind_of_refusal(error: UserError) -> str:
    """The axis or knob that a refusal names."""
    return error.message.split(" ")[0].removeprefix("machine.layout.").rstrip(":")


def _why_lost(candidate: LayoutCandidate, best: LayoutCandidate) -> str:
    """The part of the step that costs most beyond the best layout's."""
    slower = candidate.seconds / best.seconds - 1
    if slower < AS_FAST:
        return f"as fast, {candidate.memory.total / 1e9:.1f} GB in place of {best.memory.total / 1e9:.1f}"
    parts = ("compute", "tensor", "context", "expert", "data", "replicate", "pipeline")
    excess = {part: getattr(candidate.step, part) - getattr(best.step, part) for part in parts}
    part = max(excess, key=excess.__getitem__)
    recomputes = candidate.activation_checkpointing != best.activation_checkpointing
    words = {
        "compute": "recomputation" if recomputes else "uneven parts of the model",
        "tensor": "tensor communication", "context": "context communication", "expert": "expert communication",
        "data": "exchange of weights and gradients", "replicate": "all-reduce of gradients", "pipeline": "pipeline bubble",
    }  # fmt: skip
    return f"{slower:.1%} slower: {words[part]}"


def _describe_failure(tried: int, refused: dict[str, int], least: float, device: DeviceSpec, devices: int) -> str:
    if not tried:
        return f"no layout of {devices:,} devices divides the batch, the heads and the blocks of the model"
    if math.isinf(least):
        names = ", ".join(f"{name} ({count})" for name, count in sorted(refused.items()))
        return f"none of {tried:,} layouts of {devices:,} devices can compute the model: refused by {names}"
    return (
        f"none of {tried:,} layouts of {devices:,} devices fits: the leanest needs {least / 1e9:.0f} GB on each of them, "
        f"expected at most {MEMORY_FRACTION * device.memory_bytes / 1e9:.0f} GB"
    )
