"""Launching ranks: restarts after a failure, one error message, forwarded signals."""

import os
import signal
from pathlib import Path

import pytest

from groundup.artifacts.errors import AlreadyReported, UserError
from groundup.parallel.elastic_launch import check_devices, launch_ranks

HEADER = """
import os, pathlib, signal, sys, time
folder, rank = pathlib.Path({folder!r}), int(os.environ["RANK"])
if rank == 0:
    with open(folder / "starts", "a") as file: file.write("x")
    (folder / "started").touch()
else:
    while not (folder / "started").exists(): time.sleep(0.01)
    (folder / "started").unlink()
"""


@pytest.fixture
def launch(tmp_path: Path):
    """Run lines of Python on two ranks; returns what was logged. Rank 1 begins when rank 0 has written to `starts`."""

    def run(lines: str, max_restarts: int = 2) -> list[str]:
        script, progress = tmp_path / "rank.py", tmp_path / "progress"
        script.write_text(HEADER.format(folder=str(tmp_path)) + lines)
        logged: list[str] = []
        launch_ranks(
            [str(script)], 2, max_restarts=max_restarts, log=logged.append,
            get_progress=lambda: progress.read_text() if progress.exists() else "",
        )  # fmt: skip
        return logged

    return run


def starts(folder: Path) -> int:
    return len((folder / "starts").read_text())


def test_successful_ranks_are_started_once(launch, tmp_path):
    assert launch("assert os.environ['WORLD_SIZE'] == '2'") == []
    assert starts(tmp_path) == 1


def test_restarts_without_progress_are_limited(launch, tmp_path):
    with pytest.raises(UserError, match="rank 1 was killed by SIGKILL, after 2 restarts without"):
        launch("if rank == 1: os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(60)")
    assert starts(tmp_path) == 3


def test_progress_resets_the_restart_count(launch):
    lines = """
number = (folder / "starts").stat().st_size
if rank == 0:
    (folder / "progress").write_text(str(number))
    if number < 5: sys.exit(1)
"""
    logged = launch(lines, max_restarts=1)
    assert logged == ["rank 0 ended with exit code 1; restarting all ranks from the last checkpoint"] * 4


def test_reported_user_error_is_not_retried(launch, tmp_path):
    with pytest.raises(AlreadyReported):
        launch("if rank == 0: sys.exit(2)\ntime.sleep(60)")
    assert starts(tmp_path) == 1


def test_rank_stopped_by_the_agent_is_not_blamed(launch):
    with pytest.raises(UserError, match="rank 0 ended with exit code 3"):
        launch("if rank == 0: sys.exit(3)\ntime.sleep(60)", max_restarts=0)


def test_signals_are_forwarded_and_handlers_restored(launch, tmp_path):
    before = signal.getsignal(signal.SIGUSR1)
    lines = f"""
def handle(*_):
    (folder / f"received-{{rank}}").write_text("")
    sys.exit(130)
signal.signal(signal.SIGUSR1, handle)
(folder / f"ready-{{rank}}").write_text("")
while not (folder / "ready-1").exists(): time.sleep(0.01)
if rank == 0: os.kill({os.getpid()}, signal.SIGUSR1)
time.sleep(60)
"""
    with pytest.raises(KeyboardInterrupt):
        launch(lines)
    assert {path.name for path in tmp_path.glob("received-*")} == {"received-0", "received-1"}
    assert signal.getsignal(signal.SIGUSR1) == before


def test_more_ranks_than_devices_are_rejected(monkeypatch):
    check_devices("cpu", 4)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(UserError, match=r"machine.devices = 4: this machine has 2"):
        check_devices("cuda", 4)
