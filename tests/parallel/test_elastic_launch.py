"""Starting ranks: they are started again as long as they get further, and what a person must mend is told once."""

import os
import signal
from pathlib import Path

import pytest

from groundup.artifacts.errors import AlreadyReported, UserError
from groundup.parallel.elastic_launch import check_devices, launch_ranks


@pytest.fixture
def ranks(tmp_path: Path):
    """Run two ranks of a few lines of Python, with how often they started in `count`; gives what was said."""

    def run(lines: str, restarts: int = 2) -> list[str]:
        script = tmp_path / "rank.py"
        script.write_text(
            f"import os, signal, sys, time, pathlib\nfolder = pathlib.Path({str(tmp_path)!r})\n"
            "rank = int(os.environ['RANK'])\nif rank == 0:\n"
            "    with open(folder / 'starts', 'a') as file: file.write('x')\n" + lines
        )
        said: list[str] = []
        far = tmp_path / "far"
        launch_ranks(
            [str(script)], 2, restarts=restarts, log=said.append,
            get_progress=lambda: far.read_text() if far.exists() else "",
        )  # fmt: skip
        return said

    return run


def starts(folder: Path) -> int:
    return len((folder / "starts").read_text())


def test_ranks_that_end_well_are_started_once(ranks, tmp_path):
    assert ranks("assert os.environ['WORLD_SIZE'] == '2'") == []
    assert starts(tmp_path) == 1


def test_ranks_that_keep_dying_are_given_up_in_one_line(ranks, tmp_path):
    with pytest.raises(UserError, match="rank 1 was killed by SIGKILL, and so it was 2 times before"):
        ranks("if rank == 1: os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(60)")
    assert starts(tmp_path) == 3


def test_ranks_that_get_further_in_between_are_not(ranks, tmp_path):
    lines = """
number = (folder / "starts").stat().st_size
if rank == 0:
    (folder / "far").write_text(str(number))
    if number < 5: sys.exit(1)
"""
    said = ranks(lines, restarts=1)
    assert said == ["rank 0 ended with exit code 1; all ranks start again from the last checkpoint"] * 4


def test_an_error_that_a_rank_has_told_ends_the_run(ranks, tmp_path):
    with pytest.raises(AlreadyReported):
        ranks("if rank == 0: sys.exit(2)\ntime.sleep(60)")
    assert starts(tmp_path) == 1


def test_a_rank_that_the_others_death_ended_is_not_blamed(ranks):
    """Rank 1 is still at work, and is ended by the agent."""
    with pytest.raises(UserError, match="rank 0 ended with exit code 3"):
        ranks("if rank == 0: sys.exit(3)\ntime.sleep(60)", restarts=0)


def test_being_asked_to_stop_reaches_the_ranks_and_the_signals_are_given_back(ranks, tmp_path):
    before = signal.getsignal(signal.SIGUSR1)
    lines = f"""
def hear(*_):
    (folder / f"heard-{{rank}}").write_text("")
    sys.exit(130)
signal.signal(signal.SIGUSR1, hear)
(folder / f"ready-{{rank}}").write_text("")
while not (folder / "ready-1").exists(): time.sleep(0.01)
if rank == 0: os.kill({os.getpid()}, signal.SIGUSR1)
time.sleep(60)
"""
    with pytest.raises(KeyboardInterrupt):
        ranks(lines)
    assert {path.name for path in tmp_path.glob("heard-*")} == {"heard-0", "heard-1"}
    assert signal.getsignal(signal.SIGUSR1) == before


def test_more_ranks_than_accelerators_are_refused(monkeypatch):
    check_devices("cpu", 4)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(UserError, match=r"machine.devices = 4: this machine has 2"):
        check_devices("cuda", 4)
