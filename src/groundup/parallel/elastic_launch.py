"""Starting the ranks of one machine, and starting them again when one of them dies.

PyTorch's elastic agent starts them, tells them of each other, and ends all when one ends. What is done about it is said
here: a rank that was killed is no fault of the run's, which goes on from its last checkpoint; an error that a person
must mend is told once; and ranks that die again and again without getting further are given up.
"""

import logging
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from groundup.artifacts.errors import AlreadyReported, UserError
from groundup.plan.job_file import FORWARDED_SIGNALS, SHUTDOWN_SECONDS

SAME_TIME_SECONDS = 5

USER_ERROR_EXIT_CODE = 2
"""Exit code of a rank whose error was told."""


def launch_ranks(
    command: list[str],
    num_ranks: int,
    *,
    max_restarts: int,
    get_progress: Callable[[], Any],
    log: Callable[[str], None],
) -> None:
    """Run `python command...` as `ranks` ranks on this machine; return when all have ended well.

    Args:
        restarts: how often they are started again, when they got no further in between.
        reached: says how far the work is: another value means further.
        say: a line for people.

    Raises UserError when they keep dying, Told when a rank has told what is wrong, KeyboardInterrupt when the run was
    asked to stop and has saved.
    """
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(("torch.distributed.elastic", "torch.distributed.launcher")):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what they would say is said here
    far, left = get_progress(), max_restarts
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
            what = _describe_first_failure(error)
        if (now := get_progress()) != far:
            far, left = now, max_restarts
        if left == 0:
            raise UserError(
                f"{what}, and so it was {max_restarts} times before, without a new checkpoint in between",
                hint="what the ranks wrote above says more; machine.max_restarts allows more attempts",
            )
        left -= 1
        log(f"{what}; all ranks start again from the last checkpoint")


def check_devices(device: str, num_ranks: int) -> None:
    """Raises UserError when there are fewer accelerators on this machine than ranks that each want one."""
    kind = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    here = torch.cuda.device_count()
    if kind.startswith("cuda") and num_ranks > here:
        raise UserError(
            f"machine.devices = {num_ranks}: this machine has {here}",
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
    """What ended first. The agent lists those that it ended itself too: they come later, or by its SIGTERM.

    Of those that ended in the same moment, one that was killed comes before those that missed it.
    """
    earliest = min(failure.timestamp for failure in error.failures.values())
    failures = sorted(
        error.failures.items(),
        key=lambda item: (
            item[1].timestamp > earliest + SAME_TIME_SECONDS,
            item[1].exitcode == -signal.SIGTERM,
            item[1].exitcode >= 0,
        ),
    )
    rank, failure = failures[0]
    if failure.exitcode < 0:
        return f"rank {rank} was killed by {signal.Signals(-failure.exitcode).name}"
    return f"rank {rank} ended with exit code {failure.exitcode}"


@contextmanager
def _restored_signals() -> Iterator[None]:
    """The agent takes the signals and does not give them back."""
    numbers = [getattr(signal, name) for name in FORWARDED_SIGNALS]
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
