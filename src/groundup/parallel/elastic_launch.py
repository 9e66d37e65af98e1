"""Launch the ranks of one machine with PyTorch's elastic agent, alone or as one machine of a cluster job.

After a crash all ranks restart from the last checkpoint. A user error is final, and so are `max_restarts` failures in a
row without a new checkpoint: the one ends with exit code 2, the other with 1.
"""

import json
import logging
import os
import signal
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.agent.server.api import WorkerState
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
from torch.distributed.elastic.rendezvous.api import RendezvousError
from torch.distributed.launcher.api import LaunchConfig

from groundup.artifacts.directory import partial_path, write_atomically
from groundup.artifacts.errors import AlreadyReported, PeerLost, UserError
from groundup.artifacts.machine import Machine
from groundup.parallel.elastic_agent import RestartPolicy, build_agent, is_user_error
from groundup.plan.layout.job_file import FORWARDED_SIGNALS, SHUTDOWN_SECONDS

METRICS_FILE = ".metrics.json"
"""Return value of a distributed stage, written into its work folder by rank 0 for the launching process."""


def launch_stage(final: Path, stage: str, machine: Machine) -> dict[str, Any]:
    """Run one pipeline stage on `machine.devices` ranks in its open work folder; returns its metrics.

    Raises UserError when this machine has fewer devices, PeerLost when the ranks keep failing.
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
    nnodes: int = 1,
    rdzv_endpoint: str = "localhost:0",
    rdzv_id: str | None = None,
) -> None:
    """Run `python command...` as `num_ranks` ranks on this machine, like torchrun; returns when all have succeeded.

    Args:
        max_restarts: restarts without progress in between.
        get_progress: any value that changes with progress, such as the name of the last checkpoint.
        log: called with one line for each restart.
        nnodes: machines of the job, each of which makes this call.
        rdzv_endpoint: host and port of one of them, the same on all.
        rdzv_id: the same on all machines, and another for each job; None: one machine.

    Raises AlreadyReported when a rank has exited with a user error, PeerLost when restarts are used up or another
    machine is lost, KeyboardInterrupt when the run was asked to stop and has saved.

        launch_ranks(["train.py"], num_ranks=8, max_restarts=3)
    """
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(("torch.distributed.elastic", "torch.distributed.launcher")):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # reported here instead
    with tempfile.TemporaryDirectory() as logs, _restored_signals():
        config = LaunchConfig(
            min_nodes=nnodes,
            max_nodes=nnodes,
            nproc_per_node=num_ranks,
            run_id=rdzv_id or uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint=rdzv_endpoint,
            local_addr="localhost" if nnodes == 1 else None,
            max_restarts=max_restarts,
            # The first rank of a machine keeps the terminal, for its progress bar; lines of the others tell their rank.
            logs_specs=DefaultLogsSpecs(log_dir=logs, tee=dict.fromkeys(range(1, num_ranks), Std.ERR)),
            log_line_prefix_template="[rank ${rank}] ",
            shutdown_timeout=SHUTDOWN_SECONDS,
        )
        os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ",".join(FORWARDED_SIGNALS)
        agent = build_agent(config, command, RestartPolicy(max_restarts, get_progress, log))
        try:
            result: Any = agent.run()
        except SignalException:
            raise KeyboardInterrupt from None
        except RendezvousError as error:
            raise PeerLost(f"the machines of the job have lost one another: {error}") from None
        finally:
            agent.leave_job()
        if result is None or result.state is WorkerState.SUCCEEDED:
            return
        if is_user_error(result.failures):
            raise AlreadyReported
        raise PeerLost(
            f"{agent.describe_failure(result)}, after {max_restarts} restarts without a new checkpoint "
            "(machine.max_restarts)"
        )


def check_devices(device: str, num_ranks: int) -> None:
    """Raises UserError when this machine has fewer accelerators than ranks."""
    kind = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    available = torch.cuda.device_count()
    if kind.startswith("cuda") and num_ranks > available:
        raise UserError(
            f"machine.devices = {num_ranks}: this machine has {available}",
            hint="groundup launch writes a job for several machines",
        )


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
