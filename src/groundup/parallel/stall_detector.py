"""Stall and straggler detection: which ranks a hanging or slow step waits for.

A thread on each rank samples the stack of the main thread a few times a second. A rank that waits is inside a function
of torch.distributed, whose frame tells the collective and its process group; no call needs to be wrapped. Each rank
publishes its status in the launcher's store, and rank 0 reports when a step takes too long: the ranks that are not in a
collective while others are, or that have stopped publishing.

On an accelerator collectives run asynchronously, so that a rank seems to work until it needs a result. PyTorch's flight
recorder shows more there (TORCH_FR_BUFFER_SIZE).
"""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch.distributed as dist

SAMPLE_INTERVAL_SECONDS = 0.25
"""A sample takes some tens of microseconds."""

SAMPLES_PER_STATUS = 8

SILENT_AFTER_SECONDS = 4 * SAMPLES_PER_STATUS * SAMPLE_INTERVAL_SECONDS

STRAGGLER_WAIT, PEER_WAIT = 0.1, 0.4
"""A straggler waits for less than the first fraction of the time, all other ranks for more than the second."""

SAMPLES_PER_COMPARISON = 240

ERROR_KEY = "error"
"""Key of the error that ends the run; see rendezvous.py."""

EXIT_GRACE_SECONDS = 10.0
"""After an error, for a rank that is blocked in a collective."""

TORCH_DISTRIBUTED = str(Path(dist.__file__).parent)
PACKAGE_ROOT = str(Path(__file__).parents[1])


@dataclass(frozen=True)
class RankStatus:
    """The published status of a rank.

    Attributes:
        seconds: since the step began.
        location: file, line and function of this package.
        collective: function of torch.distributed in which the rank waits; None while it works.
        group_ranks: ranks of the collective's process group; empty for all.
        samples, waiting_samples: since the start, and how many of them in a collective.
        process: host and process id.
        finished: whether the rank has left the training.
    """

    step: int = 0
    seconds: float = 0.0
    location: str = ""
    collective: str | None = None
    group_ranks: tuple[int, ...] = ()
    samples: int = 0
    waiting_samples: int = 0
    process: str = ""
    finished: bool = False


class StallDetector:
    """The sampling thread of one rank. On rank 0 it also reads the statuses of all ranks and reports."""

    def __init__(self, store: dist.Store, rank: int, world_size: int, stall_seconds: float):
        self.store: dist.Store = store.clone()  # type: ignore[attr-defined]
        self.rank, self.world_size, self.stall_seconds = rank, world_size, stall_seconds
        self.main_thread = threading.main_thread().ident
        self.step, self.step_start = 0, time.monotonic()
        self.samples = self.waiting_samples = 0
        self._process = f"{socket.gethostname()}, process {os.getpid()}"
        self._statuses: dict[int, tuple[RankStatus, float]] = {}
        """By rank, with the time of its last change."""
        self._report_after = stall_seconds
        self._compared: dict[int, RankStatus] = {}
        self._stragglers: set[int] = set()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stall-detector", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()
        with suppress(dist.DistError, RuntimeError):
            self._publish(RankStatus(finished=True))

    def begin_step(self, step: int) -> None:
        self.step, self.step_start = step, time.monotonic()

    def _run(self) -> None:
        with suppress(dist.DistError, RuntimeError):  # the store has closed: the process is about to end
            while not self._stopped.wait(SAMPLE_INTERVAL_SECONDS):
                status = self._sample()
                if status.samples % SAMPLES_PER_STATUS:
                    continue
                self._publish(status)
                if self.rank == 0:
                    self._read_statuses()
                    self._report()
                if self.store.check([ERROR_KEY]):
                    self._exit_on_error()

    def _sample(self) -> RankStatus:
        location, collective, group_ranks = inspect_frame(sys._current_frames().get(self.main_thread or 0))
        self.samples += 1
        self.waiting_samples += collective is not None
        return RankStatus(
            self.step, time.monotonic() - self.step_start, location, collective, group_ranks,
            self.samples, self.waiting_samples, self._process,
        )  # fmt: skip

    def _publish(self, status: RankStatus) -> None:
        self.store.set(f"status/{self.rank}", json.dumps(asdict(status)))

    def _read_statuses(self) -> None:
        for rank in range(self.world_size):
            if self.store.check([f"status/{rank}"]):
                values = json.loads(self.store.get(f"status/{rank}"))
                status = RankStatus(**values | {"group_ranks": tuple(values["group_ranks"])})
                if rank not in self._statuses or self._statuses[rank][0] != status:
                    self._statuses[rank] = status, time.monotonic()

    def _report(self) -> None:
        """A stall after `stall_seconds`, and again each time the step has taken twice as long; else stragglers."""
        now = time.monotonic()
        seconds = now - self.step_start
        statuses = {rank: status for rank, (status, _) in self._statuses.items()}
        if seconds < self._report_after:
            if seconds < self.stall_seconds:
                self._report_after = self.stall_seconds
            self._report_stragglers(statuses)
            return
        self._report_after = 2 * seconds
        silent_after = max(self.stall_seconds / 2, SILENT_AFTER_SECONDS)
        ages = {rank: now - changed for rank, (_, changed) in self._statuses.items()}
        silent = {rank: age for rank, age in ages.items() if age > silent_after}
        if text := diagnose_stall(statuses, silent):
            print(text, file=sys.stderr, flush=True)

    def _report_stragglers(self, statuses: dict[int, RankStatus]) -> None:
        """Each straggler once, from the samples since the last comparison."""
        samples = [status.samples - self._compared.get(rank, RankStatus()).samples for rank, status in statuses.items()]
        if len(samples) == self.world_size and min(samples) >= SAMPLES_PER_COMPARISON:
            for rank, text in find_stragglers(self._compared, statuses).items():
                if rank not in self._stragglers:
                    print(text, file=sys.stderr, flush=True)
                    self._stragglers.add(rank)
            self._compared = statuses

    def _exit_on_error(self) -> None:
        """End this process if an error ends the run while it is blocked in a collective."""
        if self._stopped.wait(EXIT_GRACE_SECONDS if self.rank == 0 else 2 * EXIT_GRACE_SECONDS):
            return
        if self.rank == 0:
            error = json.loads(self.store.get(ERROR_KEY))
            print(f"error: {error['message']}\nhint: {error['hint']}", file=sys.stderr, flush=True)
        os._exit(2)


def inspect_frame(frame: FrameType | None) -> tuple[str, str | None, tuple[int, ...]]:
    """Location of a thread, the collective in which it waits, and the ranks of that collective."""
    collective, group_ranks, location = None, (), ""
    in_collective = True
    while frame is not None:
        path, name = frame.f_code.co_filename, frame.f_code.co_name
        in_collective = in_collective and path.startswith(TORCH_DISTRIBUTED)
        if in_collective:
            if name != "wrapper":
                collective = name
            group_ranks = group_ranks or _group_ranks(frame.f_locals)
        elif path.startswith(PACKAGE_ROOT):
            location = f"{path[len(PACKAGE_ROOT) + 1 :]}:{frame.f_lineno} {name}"
            break
        else:
            location = location or f"{Path(path).name}:{frame.f_lineno} {name}"
        frame = frame.f_back
    return location, collective, group_ranks


def _group_ranks(variables: Mapping[str, Any]) -> tuple[int, ...]:
    """Of the first process group among local variables."""
    for value in variables.values():
        if isinstance(value, dist.ProcessGroup):
            with suppress(Exception):
                return tuple(dist.get_process_group_ranks(value))
    return ()


def diagnose_stall(statuses: Mapping[int, RankStatus], silent: Mapping[int, float]) -> str | None:
    """A report of which ranks wait for which; None when no rank waits.

    Args:
        silent: ranks without a new status -> for how many seconds.
    """
    active = {rank: status for rank, status in statuses.items() if not status.finished}
    silent = {rank: age for rank, age in sorted(silent.items()) if rank in active}
    responding = {rank: status for rank, status in active.items() if rank not in silent}
    waiting = {rank: status for rank, status in responding.items() if status.collective is not None}
    working = {rank: status for rank, status in responding.items() if status.collective is None}
    if not waiting:
        return None
    seconds = max(status.seconds for status in active.values())
    step = min(status.step for status in active.values())
    if culprits := [*silent, *working]:
        cause = f"waiting for {_format_ranks(culprits)}"
    elif len(_group_by_location(waiting)) > 1:
        cause = "all ranks wait, in different places"
    else:
        cause = "all ranks wait in one place"
    lines = [f"step {step} has taken {seconds:.0f} seconds: {cause}"]
    lines += [
        f"  rank {rank}: no status for {age:.0f} seconds ({active[rank].process}); last at {active[rank].location}"
        for rank, age in silent.items()
    ]
    for ranks, preposition in ((working, "at"), (waiting, "in")):
        for location, members in _group_by_location(ranks).items():
            lines.append(f"  {_format_ranks(members)}: {preposition} {location}")
    return "\n".join(lines)


def find_stragglers(before: Mapping[int, RankStatus], now: Mapping[int, RankStatus]) -> dict[int, str]:
    """Ranks that hardly wait while all others wait a lot -> a report on each."""
    fractions = {}
    for rank, status in now.items():
        earlier = before.get(rank, RankStatus())
        waiting = status.waiting_samples - earlier.waiting_samples
        fractions[rank] = waiting / max(1, status.samples - earlier.samples)
    stragglers = {}
    for rank, fraction in fractions.items():
        others = min((value for other, value in fractions.items() if other != rank), default=0.0)
        if fraction < STRAGGLER_WAIT and others > PEER_WAIT:
            stragglers[rank] = (
                f"rank {rank} is slow ({now[rank].process}): it waits {fraction:.0%} of the time, every other rank at "
                f"least {others:.0%}"
            )
    return stragglers


def _group_by_location(statuses: Mapping[int, RankStatus]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for rank, status in statuses.items():
        text = f"step {status.step}, {status.location}"
        if status.collective is not None:
            group = _format_ranks(status.group_ranks) if status.group_ranks else "all"
            text = f"{status.collective} among {group}, {text}"
        groups.setdefault(text, []).append(rank)
    return groups


def _format_ranks(ranks: Iterable[int]) -> str:
    """rank 3; ranks 0-2, 5"""
    ordered = sorted(ranks)
    spans: list[list[int]] = []
    for rank in ordered:
        if spans and rank == spans[-1][-1] + 1:
            spans[-1].append(rank)
        else:
            spans.append([rank])
    text = ", ".join(str(span[0]) if len(span) == 1 else f"{span[0]}-{span[-1]}" for span in spans)
    return f"rank{'s' if len(ordered) > 1 else ''} {text}"


_current: StallDetector | None = None


def begin_step(step: int) -> None:
    """Note that this rank begins a step. Without a detector it does nothing."""
    if _current is not None:
        _current.begin_step(step)


@contextmanager
def detect_stalls(store: dist.Store, rank: int, world_size: int, stall_seconds: float) -> Iterator[None]:
    """Run a StallDetector for the duration of the block."""
    global _current
    _current = StallDetector(store, rank, world_size, stall_seconds)
    _current.start()
    try:
        yield
    finally:
        _current.stop()
        _current = None
