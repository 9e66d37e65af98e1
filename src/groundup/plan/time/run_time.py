"""Time of a training beyond its steps: the loader, evaluations, checkpoints and restarts after failures of devices."""

import math
from dataclasses import dataclass

from groundup.plan.hardware import PCIE_BANDWIDTH, DeviceSpec

DEVICE_HOURS_PER_FAILURE = 50_700
"""419 unexpected interruptions in 54 days on 16,384 H100 (Grattafiori et al. 2024, The Llama 3 Herd of Models, section 3.3.4)."""
RESTART_SECONDS, MACHINE_RESTART_SECONDS = 60.0, 600.0
"""From a failure to the next step (assumed): on one machine, and where another machine must be found."""
STATE_BYTES = 12
"""Of a checkpoint for each parameter: float32 weights and the two moments of AdamW, as train/checkpoints.py writes them."""
DISK_BANDWIDTH = 1e9
"""Bytes per second that one machine writes (assumed: one NVMe disk, or its part of a parallel file system)."""
OPERATIONS_FRACTION = 0.2
"""Of the steps, lost on several machines to what no formula names: slow nodes, repairs, runs that went back. Chosen by hand, so
that the median of published trainings on several machines comes out about right
(benchmarks/results/2026-11-29-plan-accuracy-published.md)."""
EVALUATED_TOKENS = 16_384
"""Validation tokens of an evaluation, as in train/stage.py."""
LOADER_TOKENS_PER_SECOND = 50e6
"""Of one thread that cuts token shards into batches (benchmarks/results/2026-11-25-loader-2core-xeon.md)."""

CPU_RANGE, ACCELERATOR_RANGE = (0.8, 1.3), (0.7, 1.4)
"""Actual time over the planned one, lowest and highest: of the trainings to which the rates of CPUs were fitted, and of 14 of 16
published trainings on accelerators; one took twice the planned time, one two thirds. No held-out test: the constants of the plan
were chosen by hand with these rows in view (benchmarks/results/2026-11-29-plan-accuracy-published.md)."""


@dataclass(frozen=True)
class CheckpointTime:
    """One checkpoint: its bytes over all devices, seconds for which training stops while the state is copied to the host, and
    seconds in which a thread writes the copy while training goes on."""

    size: float
    copy: float
    write: float

    def waiting(self, interval: float) -> float:
        """Seconds that training loses at each checkpoint, `interval` seconds apart: the next waits for the last to be written."""
        return self.copy + max(0.0, self.write - interval)

    def best_interval(self, seconds_between_failures: float) -> float:
        """Seconds between checkpoints at which copies and lost work cost least, sqrt(2 x copy x mean time between failures)
        (Young 1974, Daly 2006), and no less than one takes to write."""
        return max(self.write, math.sqrt(2 * self.copy * seconds_between_failures))


def checkpoint_time(parameters: float, devices: int, machines: int = 1) -> CheckpointTime:
    """Time of a checkpoint of a model whose state is spread over `devices`.

    >>> found = checkpoint_time(7e9, 64, machines=8)
    >>> f"{found.size / 1e9:.0f} GB, {found.copy:.2f} s, {found.write:.1f} s, {found.best_interval(50_700 * 3600 / 64):.0f} s"
    '84 GB, 0.05 s, 10.5 s, 547 s'
    """
    size = STATE_BYTES * parameters
    return CheckpointTime(size, size / devices / PCIE_BANDWIDTH, size / machines / DISK_BANDWIDTH)


def time_range(device: DeviceSpec) -> tuple[float, float, str]:
    """Lowest and highest actual time over the planned one, and of what these are."""
    if device.kind == "cpu":
        return (
            *CPU_RANGE,
            "as of the trainings to which the rates of CPUs were fitted; --calibrate measures this machine",
        )
    return *ACCELERATOR_RANGE, "as of 14 of 16 published trainings, which its constants were chosen with"


def seconds_between_failures(devices: int) -> float:
    """Mean time between failures of any of `devices`."""
    return DEVICE_HOURS_PER_FAILURE * 3600 / devices


@dataclass(frozen=True)
class RunTime:
    """Seconds of a training by what they are spent on; `failures`: expected number; `operations`: OPERATIONS_FRACTION."""

    steps: float
    loader: float = 0.0
    evaluation: float = 0.0
    checkpoints: float = 0.0
    restarts: float = 0.0
    operations: float = 0.0
    failures: float = 0.0

    @property
    def total(self) -> float:
        return self.steps + self.loader + self.evaluation + self.checkpoints + self.restarts + self.operations


def estimate_run_time(
    step_seconds: float,
    steps: int,
    batch_tokens: int,
    devices: int,
    parameters: float,
    *,
    evaluate_every: int,
    checkpoint_seconds: float,
    data_ranks: int = 1,
    machines: int = 1,
) -> RunTime:
    """Time of `steps` on accelerators. `checkpoint_seconds`: between two checkpoints; `data_ranks`: each with a loader;
    `machines`: that hold the devices.

    >>> run = estimate_run_time(10.0, 100_000, 2**24, 16_384, 405e9, evaluate_every=1000, checkpoint_seconds=600, machines=2048)
    >>> round(run.failures / (run.total - run.operations) * 86_400, 1), f"{run.restarts / run.steps:.0%}"
    (7.8, '9%')
    """
    compute = step_seconds * steps
    loader = max(0.0, batch_tokens / data_ranks / LOADER_TOKENS_PER_SECOND - step_seconds) * steps
    evaluated = steps / evaluate_every * EVALUATED_TOKENS
    evaluation = evaluated / batch_tokens * data_ranks * step_seconds / 3  # every rank evaluates; forward passes
    checkpoint = checkpoint_time(parameters, devices, machines)
    checkpoints = checkpoint.waiting(checkpoint_seconds) * compute / checkpoint_seconds
    useful = compute + loader + evaluation + checkpoints
    restart = RESTART_SECONDS if machines == 1 else MACHINE_RESTART_SECONDS
    lost = restart + max(checkpoint_seconds, checkpoint.write) / 2
    rate = 1 / seconds_between_failures(devices)
    share = min(0.9, rate * lost)
    restarts = useful * share / (1 - share)
    operations = OPERATIONS_FRACTION * compute if machines > 1 else 0.0
    return RunTime(compute, loader, evaluation, checkpoints, restarts, operations, rate * (useful + restarts))
