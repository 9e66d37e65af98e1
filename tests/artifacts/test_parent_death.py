"""A rank ends with the process that has started it."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

RANK = """
import os, sys, threading, time
from groundup.artifacts import parent_death
parent_death.{function}
print(os.getpid(), flush=True)
time.sleep(600)
"""
LAUNCHER = """
import subprocess, sys
rank = subprocess.Popen([sys.executable, "-c", {rank!r}])
rank.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "function",
    ["exit_with_launcher()", "threading.Thread(target=parent_death.watch_parent, args=(os.getppid(),)).start()"],
)
def test_rank_ends_with_its_launcher(function, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER.format(rank=RANK.format(function=function))], stdout=subprocess.PIPE, text=True
    )
    assert launcher.stdout is not None
    rank = int(launcher.stdout.readline())
    assert Path(f"/proc/{rank}").exists()
    launcher.kill()
    launcher.communicate(timeout=60)  # until the rank, too, has closed its output
    latest = time.monotonic() + 60
    while Path(f"/proc/{rank}").exists():
        assert time.monotonic() < latest
        time.sleep(0.05)
