"""The race of training steps runs anywhere, tiny: its peers that need no environment of their own, and the loop's share."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "train_step.py"


def run(*arguments: str) -> str:
    command = [sys.executable, str(SCRIPT), "--shape", "tiny", "--threads", "1", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_every_contestant_takes_its_steps(tmp_path):
    figures = tmp_path / "figures.json"
    shown = run("--steps", "1", "--rounds", "1", "--json", str(figures))
    assert "ours to the fastest peer" in shown
    rows = json.loads(figures.read_text())["rows"]
    assert {row["name"] for row in rows} >= {"groundup", "transformers", "nanogpt"}
    assert all(row["tokens_per_second"] > 0 and row["memory_bytes"] > 0 for row in rows)


@pytest.mark.slow
def test_the_loop_s_own_time_is_told():
    assert "outside of the engine" in run("--loop", "--steps", "2")
