"""Scores of the quickstart recipe, within the ranges of the README."""

import subprocess
import sys
from pathlib import Path

import pytest

from groundup.artifacts.manifest import Manifest

ROOT = Path(__file__).resolve().parents[2]
RUN = ROOT / "runs" / "quickstart"


def metrics(folder: str) -> dict:
    manifest = Manifest.read(RUN / folder)
    assert manifest is not None, f"{folder} is not complete"
    return manifest.metrics


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_quickstart_scores():
    command = [sys.executable, "-m", "groundup.cli", "run", "recipes/quickstart.toml"]
    subprocess.run(command, cwd=ROOT, check=True)
    scores, chat, quantized = metrics("05-scores"), metrics("06-chat"), metrics("09-quantized")
    assert 1.7 < scores["bits_per_byte"] < 2.3 < scores["baselines"]["xz"]
    answers = {entry["prompt"]: entry["answer"] for entry in chat["answers"]}
    assert "doing" in answers["How are you doing?"] or "good" in answers["How are you doing?"]
    assert len(answers["Hello"]) > 1
    held_out = quantized["held_out"]
    assert held_out["autoround"]["kl_divergence"] < held_out["rtn"]["kl_divergence"] < 0.1
    assert held_out["autoround"]["bits_per_byte"] - held_out["float"]["bits_per_byte"] < 0.05
    assert metrics("10-export")["max_logit_difference"] < 1e-4
