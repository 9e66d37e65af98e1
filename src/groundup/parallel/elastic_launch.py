"""Launch the ranks of one machine with PyTorch's elastic agent, and restart them after a failure.

A rank that was killed does not end the run: all ranks restart from the last checkpoint. A user error that a rank has
reported ends it at once; so do `max_restarts` failures in a row without a new checkpoint.
"""

import json
import logging
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from groundup.artifacts.directory import partial_path, write_atomically
from groundup.artifacts.errors import AlreadyReported, UserError
from groundup.artifacts.machine import Machine
from groundup.plan.job_file import FORWARDED_SIGNALS, SHUTDOWN_SECONDS

SAME_TIME_SECONDS = 5
"""Failures within this time of the first one count as simultaneous."""

USER_ERROR_EXIT_CODE = 2

METRICS_FILE = ".metrics.json"
"""Return value of a distributed stage, written into its work folder by rank 0 for the launching process."""


def launch_stage(final: Path, stage: str, machine: Machine) -> dict[str, Any]:
    """Run one pipeline stage on `machine.devices` ranks in its open work folder; returns its metrics.

    Raises UserError when this machine has fewer devices, or when the ranks keep failing.
    """
    check_devices(machine.device, machine.devices)
    checkpoints = partial_path(final) / "checkpoints"
    launch_ranks(
        ["-m", "groundup.cli", "_worker", str(final.parent), stage],
        machine.devices,
        max_restarts=machine.max_restarts,
        get_progress=lambda: max((path.name for path in checkpoints.glob("step-*")), default=""),
        log=machine.progress.log,
    )
    path = partial_path(final) / METRICS_FILE
    metrics = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    return metrics


def write_metrics(final: Path, metrics: dict[str, Any]) -> None:
    """Rank 0's part of `launch_stage`."""
    write_atomically(partial_path(final) / METRICS_FILE, json.dumps(metrics).encode())


def launch_ranks(
    command: list[str],
    num_ranks: int,
    *,
    max_restarts: int = 0,
    get_progress: Callable[[], Any] = lambda: None,
    log: Callable[[str], None] = print,
) -> None:
    """Run `python command...` as `num_ranks` ranks on this machine, like torchrun; returns when all have succeeded.

    Args:
        max_restarts: restarts without progress in between.
        get_progress: any value that changes with progress, such as the name of the last checkpoint.
        log: called with one line for each restart.

    Raises UserError when restarts are used up, AlreadyReported when a rank has exited with a user error,
    KeyboardInterrupt when the run was asked to stop and has saved.

        launch_ranks(["train.py"], num_ranks=8, max_restarts=3)
    """
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(("torch.distributed.elastic", "torch.distributed.launcher")):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # reported here instead
    progress, left = get_progress(), max_restarts
    while True:
        try:
            with tempfile.TemporaryDirectory() as logs, _restored_signals():
                elastic_launch(_config(num_ranks, logs), sys.executable)(*command)
            return
        except SignalException:
            raise KeyboardInterrupt from None
        except ChildFailedError as error:
            if any(failure.exitcode == USER_ERROR_EXIT_CODE for failure in error.failures.values()):
                raise AlreadyReported from None
            failure = _describe_first_failure(error)
        if (now := get_progress()) != progress:
            progress, left = now, max_restarts
        if left == 0:
            raise UserError(
                f"{failure}, after {max_restarts} restarts without a new checkpoint",
                hint="see the ranks' output above; machine.max_restarts allows more attempts",
            )
        left -= 1
        log(f"{failure}; restarting all ranks from the last checkpoint")


def check_devices(device: str, num_ranks: int) -> None:
    """Raises UserError when this machine has fewer accelerators than ranks."""
    kind = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    available = torch.cuda.device_count()
    if kind.startswith("cuda") and num_ranks > available:
        raise UserError(
            f"machine.devices = {num_ranks}: this machine has {available}",
            hint="groundup launch writes a job for several machines",
        )


def _config(num_ranks: int, logs: str) -> LaunchConfig:
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_ranks,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=logs),
        signals_to_handle=",".join(FORWARDED_SIGNALS),
        shutdown_timeout=SHUTDOWN_SECONDS,
    )


def _describe_first_failure(error: ChildFailedError) -> str:
    """The failure that ended the others.

    The agent also lists the ranks that it stopped itself: later, or with its SIGTERM. Of simultaneous failures a
    killed rank comes before ranks that failed because they lost it.
    """
    earliest = min(failure.timestamp for failure in error.failures.values())
    rank, failure = min(
        error.failures.items(),
        key=lambda item: (
            item[1].timestamp > earliest + SAME_TIME_SECONDS,
            item[1].exitcode == -signal.SIGTERM,
            item[1].exitcode >= 0,
        ),
    )
    if failure.exitcode < 0:
        return f"rank {rank} was killed by {signal.Signals(-failure.exitcode).name}"
    return f"rank {rank} ended with exit code {failure.exitcode}"


@contextmanager
def _restored_signals() -> Iterator[None]:
    """Restore the signal handlers, which the agent replaces."""
    numbers = [getattr(signal, name) for name in FORWARDED_SIGNALS]
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
