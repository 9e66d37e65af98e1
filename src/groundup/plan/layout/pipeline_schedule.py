"""Pipeline schedules: one table of their properties, and the stages of the model that each pipeline rank has."""

from dataclasses import dataclass

from groundup.recipe.layout_config import LayoutConfig, PipelineSchedule


@dataclass(frozen=True)
class ScheduleSpec:
    """Properties of one value of machine.layout.pipeline_schedule.

    Attributes:
        torch_class: its class in torch.distributed.pipelining.schedules.
        stages_per_device: None: machine.layout.stages_per_device.
        v_shaped: rank 0 has the first and the last stage; else rank r has stages r, r + pipeline, ...
        zero_bubble: weight gradients are computed apart from, and after, activation gradients.
    """

    torch_class: str
    stages_per_device: int | None
    v_shaped: bool = False
    zero_bubble: bool = False


SCHEDULES: dict[PipelineSchedule, ScheduleSpec] = {
    "gpipe": ScheduleSpec("ScheduleGPipe", 1),
    "1f1b": ScheduleSpec("Schedule1F1B", 1),
    "interleaved-1f1b": ScheduleSpec("ScheduleInterleaved1F1B", None),
    "interleaved-zero-bubble": ScheduleSpec("ScheduleInterleavedZeroBubble", None, zero_bubble=True),
    "zero-bubble-v": ScheduleSpec("ScheduleZBVZeroBubble", 2, v_shaped=True, zero_bubble=True),
    "dualpipe-v": ScheduleSpec("ScheduleDualPipeV", 2, v_shaped=True, zero_bubble=True),
}


def num_stages(layout: LayoutConfig) -> int:
    """Number of pipeline stages of the model."""
    if layout.pipeline == 1:
        return 1
    return layout.pipeline * (SCHEDULES[layout.pipeline_schedule].stages_per_device or layout.stages_per_device)


def supports_micro_batches(layout: LayoutConfig, count: int) -> bool:
    """Whether the schedule can run `count` micro-batches: the conditions of PyTorch's classes."""
    if layout.pipeline_schedule in ("1f1b", "dualpipe-v"):
        return count >= num_stages(layout)
    if layout.pipeline_schedule in ("interleaved-1f1b", "interleaved-zero-bubble"):
        return count % max(1, count // layout.pipeline) == 0
    return True


def stage_indices(pipeline_rank: int, layout: LayoutConfig) -> list[int]:
    """Indices of the stages of one pipeline rank."""
    stages = num_stages(layout)
    if layout.pipeline > 1 and SCHEDULES[layout.pipeline_schedule].v_shaped:
        return [pipeline_rank, stages - 1 - pipeline_rank]
    return list(range(pipeline_rank, stages, layout.pipeline))
