"""kill -9 and power cuts at random moments of all stages: the continued run equals a straight one, and no file is left."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from faulted_runs import cut_power, differences, finish, read_log, start

from groundup.artifacts.directory import partial_path
from groundup.stages import STAGES

KILLS_PER_RUN = 5
LAST_MOMENT = 12
"""Changes of a folder that end a stage: its manifest, its name, what is removed then."""


@pytest.fixture(scope="module")
def straight(tiny_recipe: Path, tmp_path_factory) -> tuple[Path, dict[str, int]]:
    """An undisturbed run, and how many changes of its folder each stage makes."""
    runs = tmp_path_factory.mktemp("straight")
    code, stderr = finish(start(tiny_recipe, runs, fault={"log": str(runs / "log")}))
    assert code == 0, stderr
    changes = read_log(runs / "log")
    return runs / "tiny", {s.folder: sum(s.folder in change.path for change in changes) for s in STAGES}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(16))
def test_killed_runs_equal_straight_run(tiny_recipe: Path, straight, tmp_path: Path, seed: int):
    """A process group is killed in five stages, before a change of the stage's folder or at any time; then it may finish.

    After half of the kills, the power is cut, too.
    """
    expected, changes = straight
    generator = random.Random(seed)
    folders = sorted(generator.sample([*changes, ""], KILLS_PER_RUN), key=lambda folder: folder or "~")
    for number, folder in enumerate(folders):
        last = changes.get(folder, 10)  # those of the whole run: its recipe, plan and record
        at = generator.randrange(max(0, last - LAST_MOMENT) if generator.random() < 0.4 else 0, last)
        by_time, power = folder and generator.random() < 0.3, generator.random() < 0.5
        log = tmp_path / f"log{number}"
        fault = {"log": str(log), "only": folder, "action": "kill group"} | ({} if by_time else {"at": at})
        process = start(tiny_recipe, tmp_path, fault=fault)
        if by_time:
            while process.poll() is None and not partial_path(tmp_path / "tiny" / folder).exists():
                time.sleep(0.05)
            time.sleep(generator.uniform(0, 8))
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        code, stderr = finish(process)
        assert code in (0, -signal.SIGKILL), stderr
        lost = cut_power(tmp_path / "tiny", sorted(tmp_path.glob("log*"))) if power else 0
        moment = f"{read_log(log)[-1].kind} {read_log(log)[-1].path}" if read_log(log) else "before any change"
        print(
            f"seed {seed}, {folder or 'run'}: {'killed' if code else 'not killed'} at {moment}, {lost} files cut",
            flush=True,
        )
    code, stderr = finish(start(tiny_recipe, tmp_path))
    assert code == 0, stderr
    assert differences(tmp_path / "tiny", expected) == []
