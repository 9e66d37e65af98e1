"""[machine.layout]: how the devices of a run share the work. It changes where things are computed, never what."""

from typing import Literal

from groundup.recipe.base_config import BaseConfig, knob

ContextMethod = Literal["all-gather", "ulysses", "ring"]
PipelineSchedule = Literal[
    "gpipe", "1f1b", "interleaved-1f1b", "interleaved-zero-bubble", "zero-bubble-v", "dualpipe-v"
]


class LayoutConfig(BaseConfig):
    """Axes whose sizes multiply to the number of devices: replicate x shard x context x tensor x pipeline.

    The expert axis multiplies nothing: it takes its devices from shard x context, whose tokens differ.
    """

    replicate: int = knob(1, "copies of the weights, each on devices of its own: one a node, say", ge=1)
    shard: int | None = knob(
        None,
        "devices that share one copy of weights, gradients and optimizer state (ZeRO-3, FSDP); derived: all "
        "devices that no other axis takes",
        ge=1,
    )
    context: int = knob(1, "devices that share each sequence", ge=1)
    context_method: ContextMethod = knob(
        "all-gather",
        "how the parts of a sequence see each other: keys and values gathered, exchanged for heads (Ulysses), or "
        "passed around a ring",
    )
    tensor: int = knob(1, "devices that share each matrix (Shoeybi et al. 2019)", ge=1)
    sequence_parallel: bool = knob(
        True,
        "between the matrices, share the sequence over the tensor axis (Korthikanti et al. 2022); native engine only",
    )
    pipeline: int = knob(1, "devices that hold the blocks one after the other", ge=1)
    pipeline_schedule: PipelineSchedule = knob(
        "1f1b", "in which order a pipeline's micro-batches go forward and back"
    )
    stages_per_device: int = knob(
        2, "pieces of the model on one device, in the schedules that have several", ge=2
    )
    expert: int = knob(1, "devices that share the experts of a mixture", ge=1)
    reshard_after_forward: bool | None = knob(
        None,
        "drop gathered weights after the forward pass and gather them again; derived: unless there is a pipeline",
    )
    zero_stage: Literal[1, 2, 3] | None = knob(
        None,
        "with train.engine = deepspeed, what the shard axis cuts: optimizer state, gradients too, weights too "
        "(Rajbhandari et al. 2020); derived: 3. The native engine always cuts all three",
    )
    cpu_offload: Literal["none", "optimizer", "all"] = knob(
        "none",
        "keep in the CPU's memory: the optimizer's state (deepspeed), or weights, gradients and optimizer state",
    )
