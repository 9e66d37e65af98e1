"""How long a step takes on many devices: products at the speed of one device, and what of the links is not hidden.

    products    operations of one rank, with those made again, at `kernels` of a device's peak
    tensor      its collectives stand between the products: all of their time is waited for
    context     keys gathered or exchanged likewise; a ring hides them behind the attention of the part before
    data        weights are gathered and gradients scattered beside the blocks: waited for is what takes longer than the
                products, and the first block's share, before which there is nothing to do
    replicate   gradients are summed beside the last micro-batch's way back
    pipeline    its bubble: (p - 1) / m of the products, shared by the v pieces of a device (Narayanan et al. 2021, section 2.2)

What a rank can send a second depends on where the others of its group are: in its machine by its own link, and else as
fast as the machine's ranks of that group together reach the network (a ring enters and leaves a machine once for each
of them). `HOP_SECONDS` is the one thing here that is neither in a data sheet nor measured.
"""

from dataclasses import dataclass

from groundup.plan.communication import StepSpec, communication_bytes
from groundup.plan.hardware import DeviceSpec
from groundup.plan.parallel_layout import num_stages
from groundup.plan.parameter_count import training_flops_per_token
from groundup.recipe import ModelConfig
from groundup.recipe.layout_config import LayoutConfig

HOP_SECONDS = 5e-6
"""Seconds from one rank of a ring to the next, however little is sent: assumed."""

AXES_INNERMOST_FIRST = ("tensor", "context", "shard", "replicate", "pipeline")
"""The axes from the one whose ranks are neighbours outwards, as parallel/mesh.py lays them."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step; the total is their sum.

    `utilization` is the share of the peak that the model's own operations make, without those made again.
    """

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
    config: ModelConfig,
    layout: LayoutConfig,
    spec: StepSpec,
    device: DeviceSpec,
    devices_per_machine: int = 8,
) -> StepTime:
    """The step of a rank in the middle, with `device.link` and `device.network` known."""
    assert layout.shard is not None
    own = training_flops_per_token(config, spec.sequence_length) * spec.num_sequences * spec.sequence_length
    own /= layout.context * layout.tensor * layout.pipeline
    peak = device.peak_flops * (2 / spec.compute_bytes if spec.compute_bytes < 2 else 1)
    products = (
        own * (4 / 3 if spec.activation_checkpointing == "full" else 1) / (peak * device.kernel_efficiency)
    )
    sent = communication_bytes(config, layout, spec)
    blocks = config.num_layers / layout.pipeline
    speed = {axis: axis_bandwidth(axis, layout, device, devices_per_machine) for axis in sent}
    passes = 3 if spec.activation_checkpointing != "none" else 2
    tensor = sent["tensor"] / speed["tensor"]
    tensor += (
        4 * passes * blocks * spec.num_micro_batches * (layout.tensor - 1) * HOP_SECONDS / 10
    )  # within a machine
    context = 0.0 if layout.context_method == "ring" else sent["context"] / speed["context"]
    data_world_size = layout.shard * layout.context
    gathers = blocks * (2 * spec.num_micro_batches if layout.pipeline == 1 else 1) + blocks
    links = sent["data"] / speed["data"] + gathers * (data_world_size - 1) * HOP_SECONDS
    links = links if data_world_size > 1 else 0.0
    data = max(links - products, 0.0) + links / max(1, gathers)
    sums = sent["replicate"] / speed["replicate"]
    replicate = max(0.0, sums - products * 2 / 3 / spec.num_micro_batches)
    bubble = 0.0
    if layout.pipeline > 1:
        pieces = num_stages(layout) / layout.pipeline
        bubble = (layout.pipeline - 1) / (spec.num_micro_batches * pieces) * (products + tensor + context)
    total = products + tensor + context + data + replicate + bubble
    return StepTime(products, tensor, context, data, replicate, bubble, own / peak / total)


def axis_bandwidth(axis: str, layout: LayoutConfig, device: DeviceSpec, devices_per_machine: int) -> float:
    """Bytes a second that a rank can send to the others along an axis."""
    if device.link_bandwidth is None or device.network_bandwidth is None:
        raise ValueError("a device without links in the table")
    inside, size = 1, getattr(layout, axis) if axis != "data" else layout.shard * layout.context  # type: ignore[operator]
    for inner in AXES_INNERMOST_FIRST:
        if inner == axis or (axis == "data" and inner in ("context", "shard")):
            break
        inside *= getattr(layout, inner)
    here = max(1, min(size, devices_per_machine // inside if inside < devices_per_machine else 1))
    return (
        device.link_bandwidth if here == size else min(device.link_bandwidth, here * device.network_bandwidth)
    )
