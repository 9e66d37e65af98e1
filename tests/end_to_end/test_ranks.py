"""The same command under a launcher: two ranks make the run that one makes, and a second start finds nothing to do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def run(recipe: Path, runs: Path, ranks: int) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    command = [sys.executable, *launcher, "-m", "groundup.cli", "run", str(recipe), "--runs", str(runs)]
    command += ["--until", "base", "--set", "train.precision=float32"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)


def losses(runs: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (runs / "tiny/04-base/steps.jsonl").read_text().splitlines()]


def test_two_ranks_make_the_run_that_one_makes(tiny_recipe: Path, tmp_path: Path):
    for ranks in (1, 2):
        done = run(tiny_recipe, tmp_path / str(ranks), ranks)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("built in") == 1, "only the first rank speaks"
    # Muon's products are in bfloat16, whose rounding depends on how they are cut.
    assert losses(tmp_path / "2") == pytest.approx(losses(tmp_path / "1"), rel=1e-3)
    again = run(tiny_recipe, tmp_path / "2", 2)
    assert "nothing to do" in again.stdout, again.stderr
