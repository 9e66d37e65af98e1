"""End of a rank whose launcher was killed.

Nobody restarts such a rank, and it would go on writing into a run folder in which the next start works.
"""

import ctypes
import os
import signal
import sys
import threading
import time

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that a process gets when its parent ends."""

POLL_SECONDS = 1.0


def exit_with_launcher() -> None:
    """Kill this process as soon as the elastic agent that has started it (torchrun, or `launch_ranks`) is gone.

    Other launchers may start ranks from a shell that ends before them: there it does nothing.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and not (sys.platform == "linux" and kill_on_parent_death()):
        threading.Thread(target=watch_parent, args=(os.getppid(),), name="parent", daemon=True).start()


def kill_on_parent_death() -> bool:
    """Linux: let the kernel send SIGKILL when the parent ends. Returns whether it can."""
    parent = os.getppid()
    accepted = ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) == 0
    if os.getppid() != parent:  # it ended before the call
        os.kill(os.getpid(), signal.SIGKILL)
    return accepted


def watch_parent(parent: int) -> None:
    """Other systems: ask once a second."""
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
