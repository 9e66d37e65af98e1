"""Estimate of the time of a training step on many devices: compute, and communication that compute does not hide.

    compute     operations of one rank, recomputation included, at `kernel_efficiency` of the peak
    tensor      collectives between matrix products: not hidden
    context     all-gather and all-to-all: not hidden; ring: hidden
    data        all-gather of weights and reduce-scatter of gradients: what exceeds compute, and that of the first block
    replicate   all-reduce of gradients: what exceeds the backward pass of the last micro-batch
    pipeline    bubble: (p - 1) / (m v) of the compute, with v stages per device (Narayanan et al. 2021, section 2.2)

Bandwidth to ranks of the same machine is that of the link; else that of the network, times the ranks of the group on one
machine (a ring enters and leaves the machine once for each). Only `HOP_SECONDS` is neither published nor measured.
"""

from dataclasses import dataclass

from groundup.plan.communication import StepSpec, communication_bytes
from groundup.plan.hardware import DeviceSpec
from groundup.plan.parameter_count import training_flops_per_token
from groundup.plan.pipeline_schedule import num_stages
from groundup.recipe import ModelConfig
from groundup.recipe.layout_config import LayoutConfig

HOP_SECONDS = 5e-6
"""Latency from one rank of a ring to the next (assumed)."""

AXES_INNERMOST_FIRST = ("tensor", "context", "shard", "replicate", "pipeline")
"""Order of the axes over consecutive ranks, as in parallel/mesh.py."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step; `utilization` is model FLOPs utilization (MFU), recomputation excluded."""

    compute: float
    tensor: float
    context: float
    data: float
    replicate: float
    pipeline: float
    utilization: float

    @property
    def total(self) -> float:
        return self.compute + self.tensor + self.context + self.data + self.replicate + self.pipeline


def estimate_step_time(
    config: ModelConfig, layout: LayoutConfig, spec: StepSpec, device: DeviceSpec, devices_per_machine: int = 8
) -> StepTime:
    """Step time of a rank in the middle of the pipeline. Raises ValueError if `device` has no link bandwidths."""
    flops = training_flops_per_token(config, spec.sequence_length) * spec.num_sequences * spec.sequence_length
    flops /= layout.context * layout.tensor * layout.pipeline
    peak = device.peak_flops * (2 / spec.compute_bytes if spec.compute_bytes < 2 else 1)
    recomputation = 4 / 3 if spec.activation_checkpointing == "full" else 1
    compute = flops * recomputation / (peak * device.kernel_efficiency)
    sent = communication_bytes(config, layout, spec)
    bandwidth = {axis: axis_bandwidth(axis, layout, device, devices_per_machine) for axis in sent}
    blocks = config.num_layers / layout.pipeline
    passes = 3 if spec.activation_checkpointing != "none" else 2
    hops = 4 * passes * blocks * spec.num_micro_batches * (layout.tensor - 1)
    tensor = sent["tensor"] / bandwidth["tensor"] + hops * HOP_SECONDS / 10  # within a machine
    context = 0.0 if layout.context_method == "ring" else sent["context"] / bandwidth["context"]
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
        bubble = (layout.pipeline - 1) / slots * (compute + tensor + context)
    total = compute + tensor + context + data + replicate + bubble
    return StepTime(compute, tensor, context, data, replicate, bubble, flops / peak / total)


def axis_bandwidth(axis: str, layout: LayoutConfig, device: DeviceSpec, devices_per_machine: int) -> float:
    """Bytes per second that a rank can send along an axis."""
    if device.link_bandwidth is None or device.network_bandwidth is None:
        raise ValueError("link_bandwidth and network_bandwidth of the device are not set")
    stride, size = 1, layout.data_ranks if axis == "data" else getattr(layout, axis)
    for inner in AXES_INNERMOST_FIRST:
        if inner == axis or (axis == "data" and inner in ("context", "shard")):
            break
        stride *= getattr(layout, inner)
    same_machine = max(1, min(size, devices_per_machine // stride if stride < devices_per_machine else 1))
    if same_machine == size:
        return device.link_bandwidth
    return min(device.link_bandwidth, same_machine * device.network_bandwidth)
