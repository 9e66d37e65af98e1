"""Programs that a model has written, run in a process of their own that can do little but compute. Linux only.

The process is Python without site-packages and environment, in an empty folder, with limits on processor time and memory, ended
with its time limit. Before the program starts, a filter of system calls (seccomp, which the program cannot take off) leaves it
reading, memory and time: no sockets, no file to write, change or remove, no process to start or signal, no threads.

What it does not guard against: the program can read every file that the user may read (it cannot send it anywhere: the
result is one bit), use its share of processor and memory, and look for a fault of the kernel. It shares a process with the
code that reports success, so a program that searches Python's frames can claim to have passed: a reward for a model to find.
A container or a virtual machine around the whole training is the stronger wall.
"""

import functools
import os
import platform
import secrets
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from groundup.artifacts.errors import UserError

MEMORY_BYTES = 512 << 20
RUNNER = Path(__file__).with_name("sandboxed_program.py")


def passes_tests(program: str, tests: str, *, timeout_seconds: float = 5.0) -> bool:
    """Whether `program` and then `tests` run to their end, without an exception, in the time limit.

    Raises UserError where programs cannot be confined: not Linux, or a processor whose system calls are not known here.

    >>> passes_tests("def double(x): return 2 * x", "assert double(4) == 8")
    True
    """
    check_sandbox()
    secret = secrets.token_hex(16)
    return _run(f"{secret}\n{len(program)}\n{program}\n{tests}", timeout_seconds) == secret.encode()


@functools.lru_cache(maxsize=1)
def check_sandbox() -> None:
    """Raises UserError if a program could open a socket or write a file: tried once."""
    if sys.platform != "linux":
        raise UserError(
            f"programs written by the model cannot be run safely: this system ({platform.system()}) cannot confine them",
            hint="use Linux, or a container of it",
        )
    probe = (
        "import os, socket\n"
        "def refused(action, *args):\n"
        "    try:\n        action(*args)\n"
        "    except OSError as error:\n        return error.errno == 1\n"
        "    return False\n"
        "assert refused(socket.socket)\n"
        "assert refused(os.open, 'file', os.O_CREAT | os.O_WRONLY)\n"
        "assert refused(os.fork)\n"
    )
    if _run(f"probe\n{len(probe)}\n{probe}\n", 20.0) != b"probe":
        raise UserError(
            f"programs written by the model cannot be run safely: this kernel ({platform.release()}, {platform.machine()}) "
            "has no filter of system calls",
            hint="expected Linux with seccomp on x86_64 or aarch64",
        )


def _run(text: str, timeout_seconds: float) -> bytes:
    """What the runner reports, b"" if the program fails."""
    command = [sys.executable, "-I", "-S", "-B", str(RUNNER), str(max(1, round(timeout_seconds))), str(MEMORY_BYTES)]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            command, cwd=folder, env={}, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            return process.communicate(text.encode("utf-8", "replace"), timeout=timeout_seconds)[0]
        except subprocess.TimeoutExpired:
            return b""
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
