"""Being asked to stop: by Ctrl-C, or by a scheduler that wants its machine back."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1")
"""Ctrl-C; what Kubernetes, Slurm and systemd send before they kill; what Slurm's --signal=USR1@60 sends earlier."""


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop, and saved what it had."""


class StopRequest:
    """Whether somebody asked."""

    def __init__(self) -> None:
        self.stop_requested = False


@contextmanager
def handle_signals() -> Iterator[StopRequest]:
    """While the block runs a signal is a wish that the loop grants at its next step; a second Ctrl-C does not wait.

    Python hands signals to the main thread alone: on any other nobody can ask.
    """
    wish = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return

    def hear(number: int, frame: FrameType | None) -> None:
        if wish.stop_requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        wish.stop_requested = True

    numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    before = {number: signal.signal(number, hear) for number in numbers}
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
