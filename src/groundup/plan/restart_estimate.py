"""Interruptions of a long run, what they cost, and how often to write checkpoints."""

import math
from dataclasses import dataclass

from groundup.plan.derive import SECONDS_PER_HOUR, Plan
from groundup.plan.run_time import DEVICE_HOURS_PER_FAILURE, MACHINE_RESTART_SECONDS, RESTART_SECONDS
from groundup.plan.storage_estimate import CHECKPOINT_BYTES_PER_PARAMETER

DISK_BANDWIDTH = 1e9
"""Bytes per second that one machine writes (assumed: one NVMe disk, or its part of a parallel file system)."""


@dataclass(frozen=True)
class RestartEstimate:
    """Interruptions of a run.

    Attributes:
        failures: expected number.
        checkpoint_bytes, checkpoint_seconds: size of one over all devices, and time to write it.
        interval_seconds: between two checkpoints, in the recipe.
        best_interval_seconds: at which writing and lost work cost least: sqrt(2 x writing x mean time between failures)
            (Young 1974, Daly 2006).
        overhead: time for checkpoints, lost work and restarts, as a fraction of the training.
    """

    failures: float
    checkpoint_bytes: float
    checkpoint_seconds: float
    interval_seconds: float
    best_interval_seconds: float
    overhead: float


def estimate_restarts(plan: Plan, devices_per_machine: int = 8) -> RestartEstimate:
    """Interruptions of the pretraining of `plan`."""
    assert plan.parameters is not None
    devices = plan.recipe.budget.devices
    machines = math.ceil(devices / devices_per_machine)
    failures = devices * plan.seconds / SECONDS_PER_HOUR / DEVICE_HOURS_PER_FAILURE
    size = CHECKPOINT_BYTES_PER_PARAMETER * plan.parameters.total
    writing = size / (DISK_BANDWIDTH * machines)
    interval = 60 * plan.recipe.machine.checkpoint_every_minutes
    between_failures = DEVICE_HOURS_PER_FAILURE * SECONDS_PER_HOUR / devices
    restart = RESTART_SECONDS if machines == 1 else MACHINE_RESTART_SECONDS
    lost = failures * (interval / 2 + restart)
    overhead = writing / (interval + writing) + (lost / plan.seconds if plan.seconds else 0.0)
    return RestartEstimate(failures, size, writing, interval, math.sqrt(2 * writing * between_failures), overhead)
