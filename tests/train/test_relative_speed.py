"""Measured speed of this machine beside the planner's table."""

from groundup.plan.model_shape import config_for_width
from groundup.train import relative_speed


def test_relative_speed_is_planned_by_measured_seconds(monkeypatch):
    monkeypatch.setattr(relative_speed, "LENGTH", 32)
    monkeypatch.setattr(relative_speed, "BATCH_SIZE", 2)
    config = config_for_width(64, 512, {"context_length": 64})
    cpu, accelerator = (relative_speed.measure_relative_speed(device, config) for device in ("cpu-2", "h100"))
    assert 0 < accelerator < cpu / 100  # the same seconds, beside the plan of a device that is 1,000 times as fast
