"""The table of pipeline schedules against the recipe and PyTorch."""

from typing import get_args

import pytest

from groundup.plan.layout.pipeline_schedule import SCHEDULES, num_stages, stage_indices
from groundup.recipe.layout_config import LayoutConfig, PipelineSchedule


def test_table_has_the_schedules_of_the_recipe():
    assert set(SCHEDULES) == set(get_args(PipelineSchedule))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_torch_class_exists_and_takes_that_many_stages(schedule):
    from torch.distributed.pipelining import schedules

    spec = SCHEDULES[schedule]
    single = issubclass(getattr(schedules, spec.torch_class), schedules.PipelineScheduleSingle)
    assert single == (spec.stages_per_device == 1)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_stage_has_one_rank(schedule):
    layout = LayoutConfig(pipeline=3, pipeline_schedule=schedule, stages_per_device=4)
    stages = [stage for rank in range(3) for stage in stage_indices(rank, layout)]
    assert sorted(stages) == list(range(num_stages(layout)))
    if SCHEDULES[schedule].v_shaped:
        assert stage_indices(0, layout) == [0, num_stages(layout) - 1]
