"""Runs of several ranks, under a launcher or started by `groundup run`: equal results, restarts, stops, errors."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path

import pytest
from faulted_runs import ranks_of

from groundup.artifacts.directory import lock_folder

FREQUENT_CHECKPOINTS = ("machine.checkpoint_every_minutes=0.0001", "machine.keep_checkpoints=100")
TWO_DEVICES = ("machine.devices=2", *FREQUENT_CHECKPOINTS)


def start(
    recipe: Path, runs: Path, *sets: str, ranks: int = 1, until: str = "base", restarts: int = 0
) -> subprocess.Popen[str]:
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={ranks}", f"--max-restarts={restarts}"]
    launcher = launcher if ranks > 1 else []
    command = [sys.executable, *launcher, "-m", "groundup.cli", "run", str(recipe), "--runs", str(runs)]
    command += ["--until", until, "--set", "train.precision=float32"]
    command += [word for knob in sets for word in ("--set", knob)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    out, stderr = process.communicate(timeout=300)
    assert process.returncode == code, stderr
    return out, stderr


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def losses(runs: Path) -> list[float]:
    return [record["loss"] for record in records(runs)]


def records(runs: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (runs / "tiny/04-base/steps.jsonl").read_text().splitlines()]


def weights(runs: Path) -> str:
    return hashlib.sha256((runs / "tiny/04-base/model.safetensors").read_bytes()).hexdigest()


def wait_for_checkpoint(runs: Path, process: subprocess.Popen[str], step: int) -> None:
    folder = runs / "tiny/04-base.partial/checkpoints"
    latest = time.monotonic() + 300
    while not any(int(path.name[5:]) >= step for path in folder.glob("step-*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < latest
        time.sleep(0.05)


@pytest.fixture(scope="module")
def two_rank_runs(tiny_recipe: Path, tmp_path_factory) -> Path:
    """Runs folder with a run of two ranks under torchrun, which restarts a rank that dies, as clusters do.

    Once in some hundred runs on one machine (2026-11-29) a rank died of a segmentation fault at the start of training.
    """
    runs = tmp_path_factory.mktemp("two_rank_runs")
    out, stderr = finish(start(tiny_recipe, runs, ranks=2, restarts=2))
    if "Fatal Python error" in stderr:
        with warnings.catch_warnings():
            warnings.simplefilter("default")  # shown in the summary, not an error
            warnings.warn(stderr[stderr.index("Fatal Python error") :][:4000], stacklevel=1)
    assert out.count("built in") == 1, "only the main rank prints"
    return runs


def copy_without_training(two_rank_runs: Path, runs: Path) -> Path:
    """A copy of the run without its training stage."""
    subprocess.run(["cp", "-r", str(two_rank_runs), str(runs)], check=True)
    subprocess.run(["rm", "-r", str(runs / "tiny/04-base")], check=True)
    return runs


def test_two_ranks_train_as_one(tiny_recipe: Path, two_rank_runs: Path, tmp_path: Path):
    finish(start(tiny_recipe, tmp_path))
    # Muon multiplies in bfloat16, and its rounding depends on the sharding.
    assert losses(two_rank_runs) == pytest.approx(losses(tmp_path), rel=1e-3)
    out, _ = finish(start(tiny_recipe, two_rank_runs, ranks=2))
    assert "nothing to do" in out


@pytest.mark.skipif(sys.platform != "linux", reason="finds the ranks in /proc")
def test_killed_rank_is_restarted_with_equal_weights(tiny_recipe: Path, two_rank_runs: Path, tmp_path: Path):
    runs = copy_without_training(two_rank_runs, tmp_path / "runs")
    process = start(tiny_recipe, runs, *TWO_DEVICES)
    wait_for_checkpoint(runs, process, 5)
    os.kill(dict(ranks_of(process.pid))[1], signal.SIGKILL)
    _, stderr = finish(process)
    assert "rank 1 was killed by SIGKILL; restarting all ranks from the last checkpoint" in stderr
    assert "Traceback" not in stderr
    assert [record["step"] for record in records(runs)] == list(range(40))
    assert weights(runs) == weights(two_rank_runs)


def alive_with(words: str) -> list[int]:
    """Ids of the processes whose command line contains `words`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if words in path.read_bytes().decode(errors="replace"):
                found.append(int(path.parent.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="finds the ranks in /proc")
def test_ranks_end_with_a_killed_launcher(tiny_recipe: Path, two_rank_runs: Path, tmp_path: Path):
    runs = copy_without_training(two_rank_runs, tmp_path / "runs")
    process = start(tiny_recipe, runs, *TWO_DEVICES, "train.steps=300000")
    wait_for_checkpoint(runs, process, 2)
    assert len(alive_with(str(runs))) == 3
    process.kill()
    process.communicate(timeout=60)
    latest = time.monotonic() + 30
    while alive_with(str(runs)):
        assert time.monotonic() < latest, "ranks train on without their launcher"
        time.sleep(0.05)
    with lock_folder(runs / "tiny"):
        pass


def test_user_error_ends_all_machines_of_a_job_at_once(tmp_path: Path):
    recipe = tmp_path / "wrong.toml"
    recipe.write_text('name = "wrong"\n[train]\nsteps = -1\n')
    command = [sys.executable, "-m", "groundup.cli", "_agent", "--nnodes=2", "--nproc-per-node=1", "--max-restarts=3"]
    command += [
        f"--rdzv-endpoint=localhost:{free_port()}",
        "--rdzv-id=1",
        "--",
        "run",
        str(recipe),
        "--runs",
        str(tmp_path),
    ]
    machines = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = "".join(finish(machine, 2)[1] for machine in machines)
    assert errors.count("error: ") == 1, "one rank reports, and none restarts"
    assert len(errors.splitlines()) == 2, "the error and its hint"


@pytest.mark.slow
@pytest.mark.parametrize("stop_signal", [signal.SIGTERM, signal.SIGINT])
def test_stopped_run_saves_and_continues(tiny_recipe: Path, two_rank_runs: Path, tmp_path: Path, stop_signal):
    runs = copy_without_training(two_rank_runs, tmp_path / "runs")
    process = start(tiny_recipe, runs, "machine.devices=2", "machine.checkpoint_every_minutes=60")
    latest = time.monotonic() + 120
    while not (runs / "tiny/04-base.partial/steps.jsonl").exists():
        assert time.monotonic() < latest
        time.sleep(0.1)
    process.send_signal(stop_signal)
    _, stderr = finish(process, 130)
    assert stderr.endswith("stopped; the same command continues\n")
    assert "Traceback" not in stderr
    assert list((runs / "tiny/04-base.partial/checkpoints").glob("step-*"))
    finish(start(tiny_recipe, runs, "machine.devices=2"))
    assert weights(runs) == weights(two_rank_runs)


@pytest.mark.slow
def test_ranks_with_different_recipes_print_one_error(tiny_recipe: Path, two_rank_runs: Path, tmp_path: Path):
    runs = copy_without_training(two_rank_runs, tmp_path / "runs")
    script = tmp_path / "rank.py"
    script.write_text(
        "import os, sys\nfrom groundup.cli import main\n"
        "sys.argv += ['--set', f'train.learning_rate=0.00{1 + int(os.environ[\"RANK\"])}']\nmain()\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", str(script), "run"]
    process = subprocess.Popen(
        [*command, str(tiny_recipe), "--runs", str(runs)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    _, stderr = process.communicate(timeout=120)
    assert process.returncode != 0
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert errors == [
        "error: rank 1: another recipe than rank 0 has: base.sections.train.learning_rate: 0.001 -> 0.002"
    ]
