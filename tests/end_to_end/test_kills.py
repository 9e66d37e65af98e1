"""kill -9 and power cuts at random moments of all stages: the continued run equals a straight one, and no file is left."""

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from faulted_runs import ForkedRun, cut_power, differences, finish, ranks_of, read_log, start

from groundup.artifacts.directory import partial_path

KILLS_PER_RUN = 5
LAST_MOMENT = 12
"""Changes of a folder that end a stage: its manifest, its name, what is removed then."""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(17))
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
        process = ForkedRun(tiny_recipe, tmp_path, fault=fault)
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
    code, stderr = finish(ForkedRun(tiny_recipe, tmp_path))
    assert code == 0, stderr
    assert differences(tmp_path / "tiny", expected) == []


def start_ranks(recipe: Path, runs: Path, ranks: int):
    """Training on 2 ranks, which `groundup run` starts, or on 4 under torchrun, which ends all when one is lost."""
    program = ["-m", "torch.distributed.run", f"--nproc-per-node={ranks}"] if ranks == 4 else []
    devices = [] if program else ["--set", f"machine.devices={ranks}"]
    return start(recipe, runs, "--until", "base", "--set", "train.precision=float32", *devices, program=program)


@pytest.fixture(scope="module", params=[2, 4])
def ranks_straight(request, tiny_recipe: Path, tmp_path_factory) -> tuple[int, Path]:
    runs = tmp_path_factory.mktemp("ranks")
    code, stderr = finish(start_ranks(tiny_recipe, runs, request.param))
    assert code == 0, stderr
    return request.param, runs / "tiny"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the ranks in /proc")
@pytest.mark.parametrize("seed", range(10))
def test_run_with_one_killed_rank_equals_straight_run(tiny_recipe: Path, ranks_straight, tmp_path: Path, seed: int):
    """One rank is killed at its start, after a random step, or while the weights are written; its launcher is not."""
    ranks, expected = ranks_straight
    generator = random.Random(seed)
    shutil.copytree(expected, tmp_path / "tiny", ignore=shutil.ignore_patterns("04-base"))
    partial, step, victim = tmp_path / "tiny/04-base.partial", generator.randrange(-8, 48), generator.randrange(ranks)
    process = start_ranks(tiny_recipe, tmp_path, ranks)
    found: dict[int, int] = {}
    while process.poll() is None and not (len(found) == ranks and _reached(partial, step)):
        time.sleep(0.02)
        found = found if len(found) == ranks else dict(ranks_of(process.pid))
    time.sleep(generator.uniform(0, 3 if step < 0 else 0.2))
    killed = process.poll() is None
    if killed:
        os.kill(found[victim], signal.SIGKILL)
    code, stderr = finish(process)
    print(
        f"{ranks} ranks, seed {seed}: rank {victim} {'killed' if killed else 'not killed'} at step {step}, exit code {code}"
    )
    if code:
        code, stderr = finish(start_ranks(tiny_recipe, tmp_path, ranks))
    assert code == 0, stderr
    assert differences(tmp_path / "tiny", expected) == []


def _reached(partial: Path, step: int) -> bool:
    """Whether a training has finished `step`; negative: has begun, 40 and more: writes its weights."""
    if step < 0:
        return True
    if step >= 40:
        return (partial / "model.safetensors").exists()
    log = partial / "steps.jsonl"
    return log.exists() and log.read_text().count("\n") > step
