"""[machine.layout]: how the devices of a run divide the work; the result does not depend on it."""

from typing import Literal

from groundup.recipe.base_config import BaseConfig, knob

ContextMethod = Literal["all-gather", "ulysses", "ring"]
PipelineSchedule = Literal[
    "gpipe", "1f1b", "interleaved-1f1b", "interleaved-zero-bubble", "zero-bubble-v", "dualpipe-v"
]


class LayoutConfig(BaseConfig):
    """Sizes of the parallel axes; replicate x shard x context x tensor x pipeline is the number of devices.

    The expert axis adds no devices: it divides those of shard x context.
    """

    replicate: int = knob(1, "data parallelism with copies of the weights (HSDP), such as one copy per machine", ge=1)
    shard: int | None = knob(
        None,
        "data parallelism with sharded weights, gradients and optimizer state (FSDP, ZeRO-3)",
        unset="derived: all devices that no other axis takes",
        ge=1,
    )
    context: int = knob(1, "context parallelism: devices per sequence", ge=1)
    context_method: ContextMethod = knob(
        "all-gather",
        "attention across the parts of a sequence: all-gather of keys and values, all-to-all over heads (Ulysses), or "
        "ring attention",
    )
    tensor: int = knob(1, "tensor parallelism: devices per matrix (Shoeybi et al. 2019)", ge=1)
    sequence_parallel: bool = knob(
        True, "shard activations between matrices over the tensor axis (Korthikanti et al. 2022); native engine only"
    )
    pipeline: int = knob(1, "pipeline parallelism: devices that hold consecutive blocks", ge=1)
    pipeline_schedule: PipelineSchedule = knob("1f1b", "order of the forward and backward passes of micro-batches")
    stages_per_device: int = knob(2, "pipeline stages per device, in interleaved schedules", ge=2)
    expert: int = knob(1, "expert parallelism: devices that hold different experts", ge=1)
    reshard_after_forward: bool | None = knob(
        None,
        "free unsharded weights after the forward pass and all-gather them again for the backward pass",
        unset="derived: true without a pipeline",
    )
    zero_stage: Literal[1, 2, 3] | None = knob(
        None,
        "train.engine = deepspeed: shard optimizer state (1), also gradients (2), also weights (3) "
        "(Rajbhandari et al. 2020)",
        unset="derived: 3; the native engine always shards all three",
    )
    cpu_offload: Literal["none", "optimizer", "all"] = knob(
        "none", "keep in CPU memory: optimizer state (deepspeed only), or weights, gradients and optimizer state"
    )

    @property
    def data_ranks(self) -> int:
        """Ranks over which weights are sharded: shard x context."""
        return (self.shard or 1) * self.context

    @property
    def num_devices(self) -> int:
        """Product of the axes."""
        return self.replicate * self.data_ranks * self.tensor * self.pipeline
