"""Several ranks make the run that one makes: under a launcher, or started by the run itself, which outlives them."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

OFTEN = ("machine.checkpoint_every_minutes=0.0001", "machine.keep_checkpoints=100")
DEVICES = ("machine.devices=2", *OFTEN)


def start(recipe: Path, runs: Path, *sets: str, ranks: int = 1, until: str = "base") -> subprocess.Popen[str]:
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    command = [sys.executable, *launcher, "-m", "groundup.cli", "run", str(recipe), "--runs", str(runs)]
    command += ["--until", until, "--set", "train.precision=float32"]
    command += [word for knob in sets for word in ("--set", knob)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def end(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    out, said = process.communicate(timeout=300)
    assert process.returncode == code, said
    return out, said


def losses(runs: Path) -> list[float]:
    return [record["loss"] for record in records(runs)]


def records(runs: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (runs / "tiny/04-base/steps.jsonl").read_text().splitlines()]


def weights(runs: Path) -> str:
    return hashlib.sha256((runs / "tiny/04-base/model.safetensors").read_bytes()).hexdigest()


def wait_for_checkpoint(runs: Path, process: subprocess.Popen[str], step: int) -> None:
    folder = runs / "tiny/04-base.partial/checkpoints"
    latest = time.monotonic() + 120
    while not any(int(path.name[5:]) >= step for path in folder.glob("step-*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < latest
        time.sleep(0.05)


def ranks_of(parent: int) -> Iterator[tuple[int, int]]:
    """(rank, process) of the ranks that a process has started."""
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            words = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
            if int(words["PPid"]) == parent:
                variables = (status.parent / "environ").read_bytes().decode().split("\0")
                rank = next((v for v in variables if v.startswith("RANK=")), None)
                if rank is not None:
                    yield int(rank.removeprefix("RANK=")), int(status.parent.name)
        except (OSError, ValueError):
            continue


@pytest.fixture(scope="module")
def two(tiny_recipe: Path, tmp_path_factory) -> Path:
    """A folder with the run of two ranks of a launcher."""
    runs = tmp_path_factory.mktemp("two")
    out, _ = end(start(tiny_recipe, runs, ranks=2))
    assert out.count("built in") == 1, "only the first rank speaks"
    return runs


def with_tokens(two: Path, runs: Path) -> Path:
    """The same run before its training."""
    subprocess.run(["cp", "-r", str(two), str(runs)], check=True)
    subprocess.run(["rm", "-r", str(runs / "tiny/04-base")], check=True)
    return runs


def test_two_ranks_make_the_run_that_one_makes(tiny_recipe: Path, two: Path, tmp_path: Path):
    end(start(tiny_recipe, tmp_path))
    # Muon's products are in bfloat16, whose rounding depends on how they are cut.
    assert losses(two) == pytest.approx(losses(tmp_path), rel=1e-3)
    out, _ = end(start(tiny_recipe, two, ranks=2))
    assert "nothing to do" in out


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the ranks in /proc")
def test_a_run_outlives_a_killed_rank_and_ends_in_the_same_bits(tiny_recipe: Path, two: Path, tmp_path: Path):
    runs = with_tokens(two, tmp_path / "runs")
    process = start(tiny_recipe, runs, *DEVICES)
    wait_for_checkpoint(runs, process, 5)
    os.kill(dict(ranks_of(process.pid))[1], signal.SIGKILL)
    _, said = end(process)
    assert "rank 1 was killed by SIGKILL; restarting all ranks from the last checkpoint" in said
    assert "Traceback" not in said
    assert [record["step"] for record in records(runs)] == list(range(40))
    assert weights(runs) == weights(two)


@pytest.mark.slow
@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_stop_saves_and_continues(tiny_recipe: Path, two: Path, tmp_path: Path, asked):
    runs = with_tokens(two, tmp_path / "runs")
    process = start(tiny_recipe, runs, "machine.devices=2", "machine.checkpoint_every_minutes=60")
    latest = time.monotonic() + 120
    while not (runs / "tiny/04-base.partial/steps.jsonl").exists():
        assert time.monotonic() < latest
        time.sleep(0.1)
    process.send_signal(asked)
    _, said = end(process, 130)
    assert said.endswith("stopped; the same command continues\n")
    assert "Traceback" not in said
    assert list((runs / "tiny/04-base.partial/checkpoints").glob("step-*"))
    end(start(tiny_recipe, runs, "machine.devices=2"))
    assert weights(runs) == weights(two)


@pytest.mark.slow
def test_ranks_with_different_recipes_end_with_one_error(tiny_recipe: Path, two: Path, tmp_path: Path):
    runs = with_tokens(two, tmp_path / "runs")
    script = tmp_path / "rank.py"
    script.write_text(
        "import os, sys\nfrom groundup.cli import main\n"
        "sys.argv += ['--set', f'train.learning_rate=0.00{1 + int(os.environ[\"RANK\"])}']\nmain()\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", str(script), "run"]
    process = subprocess.Popen(
        [*command, str(tiny_recipe), "--runs", str(runs)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    _, said = process.communicate(timeout=120)
    assert process.returncode != 0
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert errors == [
        "error: rank 1: another recipe than rank 0 has: base.sections.train.learning_rate: 0.001 -> 0.002"
    ]
