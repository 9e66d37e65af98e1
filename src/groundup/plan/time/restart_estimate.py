"""Interruptions of a planned training, what they and its checkpoints cost, and how often to write checkpoints."""

import math
from dataclasses import dataclass

from groundup.plan.derive import Plan
from groundup.plan.hardware import device_spec
from groundup.plan.time.run_time import checkpoint_time, seconds_between_failures

TOO_OFTEN = 0.01
"""Of the time of a training: more than this for its checkpoints is named in the plan."""


@dataclass(frozen=True)
class RestartEstimate:
    """Interruptions of a training.

    Attributes:
        failures: expected number.
        checkpoint_bytes, checkpoint_seconds: size of one over all devices, and time to write it while training goes on.
        interval_seconds: between two checkpoints, in the recipe.
        best_interval_seconds: at which checkpoints and lost work cost least.
        waiting: for checkpoints, as a fraction of the steps; part of the planned time, as `overhead` is.
        overhead: time for checkpoints, lost work and restarts, as a fraction of the steps.
    """

    failures: float
    checkpoint_bytes: float
    checkpoint_seconds: float
    interval_seconds: float
    best_interval_seconds: float
    waiting: float
    overhead: float

    def warning(self) -> str | None:
        """What is wrong with the interval, and a better one; None if fewer checkpoints would not shorten the training."""
        if self.waiting < TOO_OFTEN or self.best_interval_seconds <= self.interval_seconds:
            return None
        return (
            f"training waits {self.waiting:.0%} of its time for them: one of {self.checkpoint_bytes / 1e9:,.0f} GB takes "
            f"{self.checkpoint_seconds:,.0f} s to write, every {self.interval_seconds:,.0f} s; set "
            f"machine.checkpoint_every_minutes={math.ceil(self.best_interval_seconds / 60)}"
        )


def estimate_restarts(plan: Plan) -> RestartEstimate:
    """Interruptions of the pretraining of `plan`, from its `run_time`; on CPUs none are counted."""
    assert plan.parameters is not None
    devices, run = plan.layout.num_devices, plan.run_time
    machines = -(-devices // device_spec(plan.recipe.budget.hardware).devices_per_machine)
    checkpoint = checkpoint_time(plan.parameters.total, devices, machines)
    best = checkpoint.best_interval(seconds_between_failures(devices))
    interval = 60 * plan.recipe.machine.checkpoint_every_minutes
    steps = run.steps or 1.0
    return RestartEstimate(
        run.failures, checkpoint.size, checkpoint.write, interval, best, run.checkpoints / steps,
        (run.checkpoints + run.restarts) / steps,
    )  # fmt: skip
