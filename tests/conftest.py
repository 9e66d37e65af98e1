"""Fixtures of all tests: one torch thread, no deadlines, no network, a download cache in a temporary folder."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import jaxtyping
import pytest
from hypothesis import HealthCheck, settings

SOURCE = Path(__file__).parents[1] / "src"
# Shape annotations (model/shapes.py) are checked in every module that has them; an int passes for a float.
SHAPED = [
    ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    for path in SOURCE.rglob("*.py")
    if "from jaxtyping import" in path.read_text(encoding="utf-8")
]
jaxtyping.install_import_hook(SHAPED, "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as in groundup.cli
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture
def cli(monkeypatch, capsys):
    """The command line in this process: `cli("plan recipe.toml")` gives exit code, output and errors."""

    def call(command: str) -> tuple[int, str, str]:
        from groundup.cli import main

        monkeypatch.setattr(sys, "argv", ["groundup", *command.split()])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        return (code, *capsys.readouterr())

    return call


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """One torch thread: a stage sets the number for its process, and the next test would have other bits."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def unchecked_shapes():
    """For tests that compile: the shape checks off, which torch.compile does not trace."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Download cache of one test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("GROUNDUP_CACHE", str(folder))
    return folder


@pytest.fixture
def in_terminal():
    """`run_in_terminal`."""
    return run_in_terminal


def run_in_terminal(
    arguments: list[str], keys: list[bytes], seconds: float = 60, size: tuple[int, int] = (24, 80)
) -> tuple[str, int]:
    """Run a groundup command on a pseudo-terminal of `size` (lines, columns), press `keys`; returns output and exit code."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    command = [sys.executable, "-m", "groundup.cli", *arguments]

    def take_the_terminal() -> None:  # so that Ctrl-C is a signal
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # background processes of a shell ignore it
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, preexec_fn=take_the_terminal)
    os.close(slave)
    drawn, waiting, end = b"", list(keys), time.monotonic() + seconds
    pressed = time.monotonic()
    while time.monotonic() < end:
        if select.select([master], [], [], 0.1)[0]:
            try:
                part = os.read(master, 65536)
            except OSError:
                break
            drawn += part
        if waiting and b"\x1b[J" in drawn and time.monotonic() > pressed + 0.5:
            os.write(master, waiting.pop(0))
            pressed = time.monotonic()
    code = process.wait(timeout=10)
    os.close(master)
    return drawn.decode("utf-8", "replace"), code
