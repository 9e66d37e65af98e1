"""Measured speed of this machine beside the planner's table."""

from groundup.plan.model_shape import config_for_width
from groundup.train.relative_speed import measure_relative_speed


def test_relative_speed_is_planned_by_measured_seconds():
    config = config_for_width(64, 512, {"context_length": 64})
    cpu, accelerator = (measure_relative_speed(device, config, batch_tokens=128) for device in ("cpu-2", "h100"))
    assert 0 < accelerator < cpu / 10  # the same seconds, beside the plan of a device that only launches kernels
