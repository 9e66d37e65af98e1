"""Estimate of the time of a training step on many devices: compute, and communication that compute does not hide.

    compute     roofline of one rank's operations, recomputation included (step_work.py, training_speed.py), on the pipeline
                stage with the head
    tensor      collectives between matrix products: not hidden
    context     all-gather and all-to-all: not hidden; ring: hidden
    expert      all-to-all of the tokens of experts: not hidden
    data        all-gather of weights and reduce-scatter of gradients: what exceeds compute, and that of the first block
    replicate   all-reduce of gradients: what exceeds the backward pass of the last micro-batch
    pipeline    bubble: (p - 1) / (m v) of the compute, with v stages per device (Narayanan et al. 2021, section 2.2)

Bandwidth to ranks of the same machine is that of the link; else that of the network, times the ranks of the group on one
machine (a ring enters and leaves the machine once for each). Only `HOP_SECONDS` is neither published nor measured.
"""

from dataclasses import dataclass, replace

from groundup.artifacts.machine import ActivationCheckpointing
from groundup.plan.hardware import DeviceSpec
from groundup.plan.layout.communication import StepSpec, communication_bytes
from groundup.plan.layout.pipeline_schedule import num_stages
from groundup.plan.shape.parameter_count import training_flops_per_token
from groundup.plan.time.step_work import StepWork, step_work
from groundup.plan.time.training_speed import work_seconds
from groundup.recipe import ModelConfig
from groundup.recipe.layout_config import LayoutConfig

HOP_SECONDS = 5e-6
"""Latency from one rank of a ring to the next (assumed)."""

AXES_INNERMOST_FIRST = ("tensor", "context", "shard", "replicate", "pipeline")
"""Order of the axes over consecutive ranks, as in parallel/mesh.py."""

RECOMPUTED: dict[ActivationCheckpointing, tuple[float, float]] = {
    "none": (1.0, 1.0), "selective": (1.0, 4 / 3), "full": (1.2, 4 / 3),
}  # fmt: skip
"""Factors of the products and attention of the blocks, and of their other operations. A third of a step is forward; products
are recomputed in micro-batches that are larger for it, and cost less: 1.15 to 1.26 in published pairs of runs."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step; `utilization` is model FLOPs utilization (MFU), recomputation excluded."""

    compute: float
    tensor: float
    context: float
    expert: float
    data: float
    replicate: float
    pipeline: float
    utilization: float

    @property
    def communication(self) -> float:
        """Seconds in which the rank waits for data of others, the pipeline excluded."""
        return self.tensor + self.context + self.expert + self.data + self.replicate

    @property
    def total(self) -> float:
        return self.compute + self.communication + self.pipeline


def estimate_step_time(
    config: ModelConfig, layout: LayoutConfig, spec: StepSpec, device: DeviceSpec, precision: str = "bfloat16"
) -> StepTime:
    """Step time of a rank of the slowest pipeline stage; `precision`: of matrix products, as train.precision."""
    tokens = float(spec.num_sequences * spec.sequence_length)
    work = rank_work(config, layout, spec)
    compute = work_seconds(work, device, precision)
    sent = communication_bytes(config, layout, spec)
    bandwidth = {axis: axis_bandwidth(axis, layout, device) for axis in sent}
    blocks = config.num_layers / layout.pipeline
    passes = 3 if spec.activation_checkpointing != "none" else 2
    hops = 4 * passes * blocks * spec.num_micro_batches * (layout.tensor - 1)
    tensor = sent["tensor"] / bandwidth["tensor"] + hops * HOP_SECONDS / 10  # within a machine
    context = 0.0 if layout.context_method == "ring" else sent["context"] / bandwidth["context"]
    expert = _expert_bytes(config, layout, tokens, passes) / axis_bandwidth("expert", layout, device)
    data_ranks = layout.data_ranks
    collectives = blocks * (2 * spec.num_micro_batches if layout.pipeline == 1 else 1) + blocks
    exchange = 0.0
    if data_ranks > 1:
        exchange = sent["data"] / bandwidth["data"] + collectives * (data_ranks - 1) * HOP_SECONDS
    data = max(exchange - compute, 0.0) + exchange / max(1, collectives)
    all_reduce = sent["replicate"] / bandwidth["replicate"]
    replicate = max(0.0, all_reduce - compute * 2 / 3 / spec.num_micro_batches)
    bubble = 0.0
    if layout.pipeline > 1:
        stages_per_device = num_stages(layout) / layout.pipeline
        slots = spec.num_micro_batches * stages_per_device
        bubble = (layout.pipeline - 1) / slots * (compute + tensor + context + expert)
    total = compute + tensor + context + expert + data + replicate + bubble
    flops = tokens * training_flops_per_token(config, spec.sequence_length)
    flops /= layout.context * layout.tensor * layout.pipeline
    return StepTime(compute, tensor, context, expert, data, replicate, bubble, flops / device.peak_flops / total)


def rank_work(config: ModelConfig, layout: LayoutConfig, spec: StepSpec) -> StepWork:
    """Work of one rank in a step: its part of each block, recomputation, and the head where its stage has it."""
    tokens = float(spec.num_sequences * spec.sequence_length) / layout.context
    whole = step_work(config, spec.sequence_length, tokens, micro_batches=spec.num_micro_batches)
    products, others = RECOMPUTED[spec.activation_checkpointing]
    head = 6.0 * tokens * config.vocab_size * config.hidden_size / layout.tensor
    most_blocks = -(-config.num_layers // num_stages(layout)) * num_stages(layout) / layout.pipeline
    part = most_blocks / config.num_layers
    per_rank = part / layout.tensor
    stream = part / layout.tensor if layout.sequence_parallel else part * (1 + 1 / layout.tensor) / 2
    return replace(
        whole,
        product_flops=(whole.product_flops - head * layout.tensor) * per_rank * products + head,
        attention_flops=whole.attention_flops * per_rank * products,
        stream_values=whole.stream_values * stream * others,
        score_values=whole.score_values * per_rank * others,
        logit_values=whole.logit_values / layout.tensor,
        block_calls=whole.block_calls * part * others,
        blocks=whole.blocks * part,
        weights=whole.weights / (layout.data_ranks * layout.tensor * layout.pipeline),
    )


def _expert_bytes(config: ModelConfig, layout: LayoutConfig, tokens: float, passes: int) -> float:
    """Bytes that a rank sends to the experts of others: tokens there and back, in every pass."""
    if config.moe is None or layout.expert == 1:
        return 0.0
    layers = sum(not config.moe.is_dense(layer) for layer in range(config.num_layers)) / layout.pipeline
    values = tokens / layout.context * config.moe.experts_per_token * config.hidden_size
    return 2 * passes * layers * values * 2 * (layout.expert - 1) / layout.expert


def axis_bandwidth(axis: str, layout: LayoutConfig, device: DeviceSpec) -> float:
    """Bytes per second that a rank can send along an axis."""
    stride, size = 1, layout.data_ranks if axis == "data" else getattr(layout, axis)
    for inner in AXES_INNERMOST_FIRST:
        if inner == axis or (axis in ("data", "expert") and inner in ("context", "shard")):
            break
        stride *= getattr(layout, inner)
    per_machine = device.devices_per_machine
    same_machine = max(1, min(size, per_machine // stride if stride < per_machine else 1))
    if same_machine == size:
        return device.link_bandwidth
    return min(device.link_bandwidth, same_machine * device.network_bandwidth)
