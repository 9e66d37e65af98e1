"""Time of a training beyond its steps: the loader, evaluations, checkpoints and restarts after failures of devices."""

from dataclasses import dataclass

from groundup.plan.hardware import PCIE_BANDWIDTH

DEVICE_HOURS_PER_FAILURE = 50_700
"""419 unexpected interruptions in 54 days on 16,384 H100 (Grattafiori et al. 2024, The Llama 3 Herd of Models, section 3.3.4)."""
RESTART_SECONDS, MACHINE_RESTART_SECONDS = 60.0, 600.0
"""From a failure to the next step (assumed): on one machine, and where another machine must be found."""
STATE_BYTES = 12
"""Of weights and optimizer state for each parameter, copied to the host at a checkpoint and written by a thread."""
OPERATIONS_FRACTION = 0.2
"""Of the steps, lost on several machines to what no formula names: slow nodes, repairs, runs that went back. The median of 14
published trainings beside their steps (benchmarks/plan_accuracy.py)."""
EVALUATED_TOKENS = 16_384
"""Validation tokens of an evaluation, as in train/stage.py."""
LOADER_TOKENS_PER_SECOND = 50e6
"""Of one thread that cuts token shards into batches (benchmarks/results/2026-11-25-loader-2core-xeon.md)."""


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
    copy = STATE_BYTES * parameters / devices / PCIE_BANDWIDTH
    checkpoints = copy * compute / checkpoint_seconds
    useful = compute + loader + evaluation + checkpoints
    lost = (RESTART_SECONDS if machines == 1 else MACHINE_RESTART_SECONDS) + checkpoint_seconds / 2
    rate = devices / DEVICE_HOURS_PER_FAILURE / 3600  # failures a second
    share = min(0.9, rate * lost)
    restarts = useful * share / (1 - share)
    operations = OPERATIONS_FRACTION * compute if machines > 1 else 0.0
    return RunTime(compute, loader, evaluation, checkpoints, restarts, operations, rate * (useful + restarts))
