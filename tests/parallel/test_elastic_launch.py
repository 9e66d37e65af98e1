"""Launching ranks: restarts after a failure, one error message, forwarded signals."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from groundup.artifacts.errors import AlreadyReported, PeerLost, UserError
from groundup.parallel.elastic_launch import check_devices, launch_ranks

pytestmark = pytest.mark.filterwarnings("ignore:.*stderr.log:pytest.PytestUnraisableExceptionWarning")
"""PyTorch leaves the log files of ranks to the garbage collector."""

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
    with pytest.raises(PeerLost, match="rank 1 was killed by SIGKILL, after 2 restarts without"):
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


@pytest.mark.slow
def test_a_restart_finds_no_messages_of_the_start_before(launch):
    lines = """
from groundup.parallel.rendezvous import get_store, publish
number = (folder / "starts").stat().st_size
assert not get_store().check(["base"]), get_store().get("base")
publish(f"checked {rank}", "")
get_store().wait(["checked 0", "checked 1"])
if rank == 0: publish("base", str(number))
if number == 1: get_store().wait(["base"]); sys.exit(1)
"""
    assert len(launch(lines)) == 1


def test_last_line_of_a_failed_rank_and_rank_of_each_line(launch, capfd):
    with pytest.raises(PeerLost, match=r"rank 1 ended with exit code 1 \(ValueError: too short\), after 0 restarts"):
        launch("if rank == 1: raise ValueError('too short')\ntime.sleep(60)", max_restarts=0)
    assert "[rank 1] ValueError: too short\n" in capfd.readouterr().err


SLOW_SAVE = """
received = []
def handle(number, frame):
    received.append(signal.Signals(number).name)
    (folder / f"received-{rank}").write_text(" ".join(received))
for name in ("SIGTERM", "SIGINT", "SIGUSR1"): signal.signal(getattr(signal, name), handle)
(folder / f"ready-{rank}").write_text("")
while not (folder / "saved").exists(): time.sleep(0.01)
"""


@pytest.mark.parametrize(("first", "second", "survives"), [("SIGTERM", "SIGTERM", True), ("SIGINT", "SIGINT", False)])
def test_a_second_signal(launch, tmp_path, first, second, survives):
    """A stop is forwarded once, and not cut short by another; a second Ctrl-C ends ranks that still save."""

    def send() -> None:
        for name, ready in ((first, "ready"), (second, "received")):
            while not all((tmp_path / f"{ready}-{rank}").exists() for rank in (0, 1)):
                time.sleep(0.01)
            os.kill(os.getpid(), getattr(signal, name))
        if survives:
            time.sleep(0.5)
            (tmp_path / "saved").touch()

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(KeyboardInterrupt):
        launch(SLOW_SAVE)  # without the second Ctrl-C it would last as long as a save may: five minutes
    sender.join()
    assert {(tmp_path / f"received-{rank}").read_text() for rank in (0, 1)} == {first}


def test_rank_stopped_by_the_agent_is_not_blamed(launch):
    with pytest.raises(PeerLost, match="rank 0 ended with exit code 3"):
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
