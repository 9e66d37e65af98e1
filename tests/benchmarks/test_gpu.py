"""The one script for GPUs runs anywhere, tiny: its parts cannot rot between two machines that have one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.mark.slow
def test_every_part_runs_tiny_on_the_cpu(tmp_path):
    figures = tmp_path / "figures.json"
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--small", "--json", str(figures)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    findings = json.loads(figures.read_text())["findings"]
    parts = {finding["part"] for finding in findings}
    assert parts == {
        "ceilings",
        "attention",
        "decoder",
        "repeats",
        "loss",
        "float8",
        "steps",
        "large",
        "engines",
        "generation",
        "packed",
    }
    checked = [finding for finding in findings if finding["correct"] is not None]
    assert len(checked) >= 16
    assert all(finding["correct"] for finding in checked)


def test_a_wrong_result_and_a_failed_part_are_named_and_the_exit_code_says_so(tmp_path):
    for name in ("gpu.py", "loss_memory.py", "model_forward_backward.py", "train_step.py"):
        (tmp_path / name).write_text((SCRIPT.parent / name).read_text())
    script = tmp_path / "gpu.py"
    broken = script.read_text().replace("model.new_cache(2)", "model.new_cache(3)").replace("1e-2)", "0.0)")
    script.write_text(broken)
    command = [sys.executable, str(script), "--device", "cpu", "--small", "--parts", "attention", "decoder"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert sum(line.startswith("attention") and line.endswith("WRONG") for line in lines) == 16
    assert sum(line.startswith("decoder") and line.endswith("WRONG") for line in lines) == 1
