"""Calls in forked processes with limits on memory and processor time."""

import json
import os
import resource
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from groundup.artifacts.errors import UserError

MEMORY_BYTES = 2 << 30
SECONDS = 5.0


@dataclass
class Outcomes:
    """Numbers of calls by outcome, the slowest one, and descriptions of the faults."""

    counts: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    faults: list[str] = field(default_factory=list)


def call_isolated(call: Callable[[int], Any], indices: Sequence[int], outcomes: Outcomes, batch: int = 40) -> None:
    """`call(index)` for every index, in forked processes with limits of 2 GB and 5 seconds of processor time a call."""
    remaining = list(indices)
    while remaining:
        reader, writer = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(reader)
            _run(call, remaining[:batch], writer)
        os.close(writer)
        with os.fdopen(reader) as lines:
            reports = [json.loads(line) for line in lines]
        _, status = os.waitpid(process, 0)
        for report in reports:
            outcomes.counts[report["outcome"]] += 1
            outcomes.slowest = max(outcomes.slowest, report["seconds"])
            if report["outcome"] == "fault":
                outcomes.faults.append(f"{report['index']}: {report['text']}")
        done = len(reports)
        if done < len(remaining[:batch]):
            kind = "slow" if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF else "died"
            outcomes.counts[kind] += 1
            outcomes.faults.append(f"{remaining[done]}: {kind}, status {status}")
            done += 1
        remaining = remaining[done:]


def _run(call: Callable[[int], Any], indices: Sequence[int], writer: int) -> None:
    """In the child: a line of JSON for each call."""
    try:
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        for index in indices:
            text, begin = "", time.process_time()
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                outcome = call(index) or "read"
            except UserError as error:
                outcome = "refused"
                if "\n" in error.message or len(error.message) > 3_000:
                    outcome, text = "fault", f"message of {len(error.message)} letters: {error.message[:500]!r}"
            except BaseException as error:
                outcome, text = "fault", f"{error!r:.500}\n" + "".join(traceback.format_tb(error.__traceback__)[-4:])
            signal.setitimer(signal.ITIMER_PROF, 0)
            report = {"index": index, "outcome": outcome, "seconds": time.process_time() - begin, "text": text}
            os.write(writer, (json.dumps(report) + "\n").encode())
    finally:
        os._exit(0)
