"""Who waits for whom: a thread beside each rank looks at what it does, and the first rank tells when a step hangs.

A rank that waits is inside of a function of torch.distributed: its innermost Python frame says so, and which ranks the
function is among. So nothing has to be written around collectives, and whoever is not in one when all others are is
the one that they wait for. Each rank leaves what it does as a note for the first one, a few times a minute.

A kernel that waits on an accelerator is not seen as such: the processor runs ahead of it and stands at its next look
at a result. PyTorch's flight recorder tells more there (TORCH_FR_BUFFER_SIZE).
"""

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch.distributed as dist

SAMPLE_INTERVAL_SECONDS = 0.25
"""At what this rank does. Costs some tens of microseconds each."""

SAMPLES_PER_STATUS = 8

SILENT_AFTER_SECONDS = 4 * SAMPLES_PER_STATUS * SAMPLE_INTERVAL_SECONDS
"""A rank that is just about to leave its next note is not silent: no fewer seconds than some notes take."""

ERROR_KEY = "error"
"""Name of the note that ends the run; see rendezvous.py."""

STRAGGLER_WAIT, PEER_WAIT = 0.1, 0.4
"""A rank is slow that waits for less than this share of the time, while the others wait for more than that."""

SAMPLES_PER_COMPARISON = 240

EXIT_GRACE_SECONDS = 10.0
"""After an error was told to a rank that is held in a collective."""

TORCH_DISTRIBUTED = str(Path(dist.__file__).parent)
PACKAGE_ROOT = str(Path(__file__).parents[1])


@dataclass(frozen=True)
class RankStatus:
    """What a rank does.

    Attributes:
        step: the one it is in.
        seconds: since that began.
        where: place in the code.
        collective: the function of torch.distributed in which it waits; None while it works.
        among: the ranks that must call it too.
        looks, waits: how often it was looked at, and found waiting.
        process: host and number, for people who want to look themselves.
        left: whether it is done with the training.
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
    """The thread of one rank; on the first rank also the one that reads all notes."""

    def __init__(self, store: dist.Store, rank: int, ranks: int, stall_seconds: float):
        self.store: dist.Store = store.clone()  # type: ignore[attr-defined]
        self.rank, self.world_size, self.stall = rank, ranks, stall_seconds
        self.main_thread = threading.main_thread().ident
        self.step, self.began = 0, time.monotonic()
        self.samples = self.waiting_samples = 0
        self._process = f"{socket.gethostname()}, process {os.getpid()}"
        self._parent = os.getppid()
        self._statuses: dict[int, tuple[RankStatus, float]] = {}
        self._report_after = stall_seconds
        self._compared: dict[int, RankStatus] = {}
        self._stragglers: set[int] = set()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()
        with suppress(dist.DistError, RuntimeError):
            self.store.set(f"doing/{self.rank}", json.dumps(asdict(RankStatus(finished=True))))

    def begin_step(self, step: int) -> None:
        self.step, self.began = step, time.monotonic()

    def _run(self) -> None:
        with suppress(dist.DistError, RuntimeError):  # the store is gone, and soon this process
            while not self._stopped.wait(SAMPLE_INTERVAL_SECONDS):
                doing = self._sample()
                if doing.samples % SAMPLES_PER_STATUS:
                    continue
                self.store.set(f"doing/{self.rank}", json.dumps(asdict(doing)))
                if self.rank == 0:
                    self._read_statuses()
                if os.getppid() != self._parent:  # the launcher is gone: save, and end
                    self._parent = os.getppid()
                    os.kill(os.getpid(), signal.SIGTERM)
                if self.store.check([ERROR_KEY]):
                    self._exit_on_error()

    def _exit_on_error(self) -> None:
        """An error ends the run, and this rank may be held in a collective that another one never joins."""
        if self._stopped.wait(EXIT_GRACE_SECONDS if self.rank == 0 else 2 * EXIT_GRACE_SECONDS):
            return
        if self.rank == 0:
            error = json.loads(self.store.get(ERROR_KEY))
            print(f"error: {error['message']}\nhint: {error['hint']}", file=sys.stderr, flush=True)
        os._exit(2)

    def _sample(self) -> RankStatus:
        where, collective, among = inspect_frame(sys._current_frames().get(self.main_thread or 0))
        self.samples += 1
        self.waiting_samples += collective is not None
        seconds = time.monotonic() - self.began
        return RankStatus(
            self.step, seconds, where, collective, among, self.samples, self.waiting_samples, self._process
        )

    def _read_statuses(self) -> None:
        now = time.monotonic()
        for rank in range(self.world_size):
            if not self.store.check([f"doing/{rank}"]):
                continue
            values = json.loads(self.store.get(f"doing/{rank}"))
            doing = RankStatus(**values | {"group_ranks": tuple(values["group_ranks"])})
            if rank not in self._statuses or self._statuses[rank][0] != doing:
                self._statuses[rank] = doing, now
        quiet = now - self.began
        if quiet < self._report_after:
            self._report_after = self.stall if quiet < self.stall else self._report_after
            self._report_stragglers()
            return
        self._report_after = 2 * quiet
        long = max(self.stall / 2, SILENT_AFTER_SECONDS)
        silent = {rank: now - when for rank, (_, when) in self._statuses.items() if now - when > long}
        if text := diagnose_stall({rank: doing for rank, (doing, _) in self._statuses.items()}, silent):
            print(text, file=sys.stderr, flush=True)

    def _report_stragglers(self) -> None:
        now = {rank: doing for rank, (doing, _) in self._statuses.items()}
        if len(now) < self.world_size or any(
            doing.samples - self._compared.get(rank, RankStatus()).samples < SAMPLES_PER_COMPARISON
            for rank, doing in now.items()
        ):
            return
        for rank, text in find_stragglers(self._compared, now).items():
            if rank not in self._stragglers:
                print(text, file=sys.stderr, flush=True)
        self._compared = now


def inspect_frame(frame: FrameType | None) -> tuple[str, str | None, tuple[int, ...]]:
    """Where a thread is in the code, the collective in which it waits, and the ranks that this one is among."""
    collective, among, where = None, (), ""
    inside = True
    while frame is not None:
        path, name = frame.f_code.co_filename, frame.f_code.co_name
        inside = inside and path.startswith(TORCH_DISTRIBUTED)
        if inside:
            if name != "wrapper":
                collective = name
            among = among or _ranks_of(frame.f_locals)
        elif path.startswith(PACKAGE_ROOT):
            where = f"{path[len(PACKAGE_ROOT) + 1 :]}:{frame.f_lineno} {name}"
            break
        else:
            where = where or f"{Path(path).name}:{frame.f_lineno} {name}"
        frame = frame.f_back
    return where, collective, among


def _ranks_of(local: Mapping[str, Any]) -> tuple[int, ...]:
    """Of the first process group among a function's variables; without one it is among all."""
    for value in local.values():
        if isinstance(value, dist.ProcessGroup):
            with suppress(Exception):
                return tuple(dist.get_process_group_ranks(value))
    return ()


def diagnose_stall(statuses: Mapping[int, RankStatus], silent: Mapping[int, float]) -> str | None:
    """Why no step ends: who works or is silent, and who waits for them. None where nobody waits.

    Args:
        doing: what each rank does, as it told last.
        silent: ranks that have told nothing for so many seconds.
    """
    here = {rank: what for rank, what in statuses.items() if not what.finished}
    waiting = [rank for rank, what in here.items() if what.collective is not None and rank not in silent]
    if not waiting:
        return None
    working = [rank for rank in here if rank not in waiting and rank not in silent]
    seconds = max(what.seconds for what in here.values())
    step = min(what.step for what in here.values())
    guilty = [*silent, *working]
    if guilty:
        cause = f"waiting for {_format_ranks(guilty)}"
    else:
        cause = (
            "all ranks wait, in different places"
            if len(_group_by_location(here, waiting)) > 1
            else "all ranks wait in one place"
        )
    lines = [f"step {step} has taken {seconds:.0f} seconds: {cause}"]
    lines += [
        f"  {_format_ranks([rank])}: nothing heard for {age:.0f} seconds ({here[rank].process}); last at {here[rank].location}"
        for rank, age in sorted(silent.items()) if rank in here
    ]  # fmt: skip
    lines += [
        f"  {_format_ranks(ranks)}: at {where}" for where, ranks in _group_by_location(here, working).items()
    ]
    lines += [
        f"  {_format_ranks(ranks)}: in {where}" for where, ranks in _group_by_location(here, waiting).items()
    ]
    return "\n".join(lines)


def find_stragglers(before: Mapping[int, RankStatus], now: Mapping[int, RankStatus]) -> dict[int, str]:
    """Ranks that hardly wait while all others wait a lot, with a line on each."""
    share = {
        rank: (what.waiting_samples - before.get(rank, RankStatus()).waiting_samples)
        / max(1, what.samples - before.get(rank, RankStatus()).samples)
        for rank, what in now.items()
    }
    found = {}
    for rank, own in share.items():
        others = [value for other, value in share.items() if other != rank]
        if own < STRAGGLER_WAIT and others and min(others) > PEER_WAIT:
            found[rank] = (
                f"rank {rank} is slow ({now[rank].process}): it waits {own:.0%} of the time, every other rank at least "
                f"{min(others):.0%}"
            )
    return found


def _group_by_location(statuses: Mapping[int, RankStatus], ranks: list[int]) -> dict[str, list[int]]:
    """What is done there -> who does it."""
    places: dict[str, list[int]] = {}
    for rank in ranks:
        what = statuses[rank]
        text = f"step {what.step}, {what.location}"
        if what.collective is not None:
            text = f"{what.collective} among {_format_ranks(what.group_ranks) if what.group_ranks else 'all'}, {text}"
        places.setdefault(text, []).append(rank)
    return places


def _format_ranks(ranks: Any) -> str:
    """rank 3; ranks 0-2, 5"""
    ordered = sorted(ranks)
    runs: list[list[int]] = []
    for rank in ordered:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    text = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return f"rank{'s' if len(ordered) > 1 else ''} {text}"


_current: StallDetector | None = None


def begin_step(step: int) -> None:
    """This rank begins a step. Without others it means nothing."""
    if _current is not None:
        _current.begin_step(step)


@contextmanager
def detect_stalls(store: dist.Store, rank: int, ranks: int, stall_seconds: float) -> Iterator[None]:
    """Be watched for as long as the block runs."""
    global _current
    _current = StallDetector(store, rank, ranks, stall_seconds)
    _current.start()
    try:
        yield
    finally:
        _current.stop()
        _current = None
