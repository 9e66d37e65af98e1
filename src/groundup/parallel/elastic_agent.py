"""PyTorch's elastic agent, which starts the ranks of one machine and watches them, with other rules for a failure."""

import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous import registry as rendezvous_registry
from torch.distributed.launcher.api import LaunchConfig

from groundup.artifacts.errors import USER_ERROR_EXIT_CODE
from groundup.artifacts.rank_environment import ATTEMPT_VARIABLE

SAME_TIME_SECONDS = 5
"""Failures within this time of the first one count as simultaneous."""

USER_ERROR_WAIT_SECONDS = 30
"""For the other machines to end with the same error: the first one may hold the store that tells them."""

MAX_QUOTED_LETTERS = 200


@dataclass
class RestartPolicy:
    """How many restarts are left; all of them again after progress."""

    max_restarts: int
    get_progress: Callable[[], Any]
    log: Callable[[str], None]
    progress: Any = field(init=False)

    def __post_init__(self) -> None:
        self.progress = self.get_progress()


class RestartingAgent(LocalElasticAgent):
    """Restarts all ranks after a crash, by a policy, and never after a user error."""

    policy: RestartPolicy

    def _rendezvous(self, worker_group: WorkerGroup) -> None:
        super()._rendezvous(worker_group)  # pyright: ignore[reportCallIssue]
        # PyTorch keeps one store for the ranks over all restarts, old keys included: they use it under another prefix.
        assert worker_group.store is not None
        if worker_group.group_rank == 0:
            worker_group.store.set(ATTEMPT_VARIABLE, uuid.uuid4().hex)
        os.environ[ATTEMPT_VARIABLE] = worker_group.store.get(ATTEMPT_VARIABLE).decode()

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result: Any = super()._monitor_workers(worker_group)  # pyright: ignore[reportCallIssue]
        if not result.is_failed():
            return result
        if is_user_error(result.failures):
            self._remaining_restarts = 0
            self._exit_barrier_timeout = USER_ERROR_WAIT_SECONDS
            self._exit_barrier()
            return result
        if (now := self.policy.get_progress()) != self.policy.progress:
            self.policy.progress, self._remaining_restarts = now, self.policy.max_restarts
        if self._remaining_restarts:
            self.policy.log(f"{self.describe_failure(result)}; restarting all ranks from the last checkpoint")
        return result

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = 30) -> None:
        """Forward a signal once. While the ranks save, a second Ctrl-C kills them, other signals change nothing."""
        latest, interruption = time.monotonic() + timeout, None
        while True:
            try:
                super()._shutdown(death_sig, max(0, round(latest - time.monotonic())))
            except SignalException as error:
                interruption = error
                death_sig = signal.SIGKILL if error.sigval == signal.SIGINT else signal.SIGCONT
            else:
                break
        if interruption is not None:
            raise interruption

    def describe_failure(self, result: RunResult) -> str:
        return describe_first_failure(result.failures, self._pcontext.stderrs if self._pcontext else {})

    def leave_job(self) -> None:
        """Close the rendezvous, so that the job's other machines do not wait for this one."""
        self._rdzv_handler.shutdown()


def build_agent(config: LaunchConfig, command: list[str], policy: RestartPolicy) -> RestartingAgent:
    """The agent of one machine, as `torch.distributed.launcher.api.launch_agent` builds PyTorch's own."""
    handler = rendezvous_registry.get_rendezvous_handler(
        RendezvousParameters(
            config.rdzv_backend,
            config.rdzv_endpoint,
            config.run_id,
            config.min_nodes,
            config.max_nodes,
            local_addr=config.local_addr,
            **config.rdzv_configs,
        )
    )
    spec = WorkerSpec(
        role=config.role,
        local_world_size=config.nproc_per_node,
        entrypoint=sys.executable,
        args=tuple(command),
        rdzv_handler=handler,
        max_restarts=config.max_restarts,
        monitor_interval=config.monitor_interval,
        local_addr=config.local_addr,
        numa_options=config.numa_options,
    )
    assert config.logs_specs is not None
    assert config.shutdown_timeout is not None
    agent = RestartingAgent(
        spec,
        config.logs_specs,
        log_line_prefix_template=config.log_line_prefix_template,
        shutdown_timeout=config.shutdown_timeout,
    )
    agent.policy = policy
    return agent


def is_user_error(failures: Mapping[int, ProcessFailure]) -> bool:
    """Whether a rank has exited with a user error, which it has printed."""
    return any(failure.exitcode == USER_ERROR_EXIT_CODE for failure in failures.values())


def describe_first_failure(failures: Mapping[int, ProcessFailure], logs: Mapping[int, str]) -> str:
    """The failure that ended the others, and the last line in the rank's log.

    The agent also lists the ranks that it stopped itself: later, or with its SIGTERM. Of simultaneous failures a
    killed rank comes before ranks that failed because they lost it.
    """
    if not failures:
        return "a rank hangs in the kernel"
    earliest = min(failure.timestamp for failure in failures.values())
    rank, failure = min(
        failures.items(),
        key=lambda item: (
            item[1].timestamp > earliest + SAME_TIME_SECONDS,
            item[1].exitcode == -signal.SIGTERM,
            item[1].exitcode >= 0,
        ),
    )
    if failure.exitcode < 0:
        return f"rank {rank} was killed by {signal.Signals(-failure.exitcode).name}"
    last_line = _last_line(logs.get(failure.local_rank))
    return f"rank {rank} ended with exit code {failure.exitcode}{last_line and f' ({last_line})'}"


def _last_line(log: str | None) -> str:
    """The last line of a rank; empty for the first of a machine, which has no log."""
    try:
        lines = Path(log or "").read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip()[:MAX_QUOTED_LETTERS] for line in reversed(lines) if line.strip()), "")
