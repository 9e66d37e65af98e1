"""Signal handling: SIGINT, SIGTERM and SIGUSR1 request a checkpoint and a stop."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1")
"""Ctrl-C; sent by Kubernetes, Slurm and systemd before SIGKILL; sent earlier by Slurm's --signal=USR1@60."""


class Interrupted(KeyboardInterrupt):
    """The run was stopped by a signal, after saving its state."""


class StopRequest:
    """Set by the signal handler."""

    def __init__(self) -> None:
        self.stop_requested = False


@contextmanager
def handle_signals() -> Iterator[StopRequest]:
    """Context in which a signal sets a flag; the loop saves and stops after the step. A second Ctrl-C interrupts at once.

    No-op outside the main thread, where Python cannot handle signals.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if request.stop_requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.stop_requested = True

    numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
