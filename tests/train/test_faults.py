"""What may happen to a run from outside: it is killed, or its disk is full. It ends in the same bits all the same."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trial
from safetensors.torch import load_file

from groundup.artifacts.errors import UserError
from groundup.train.checkpoints import complete
from groundup.train.meter import MEASURED


def outcome(folder: Path) -> tuple:
    """All that a run leaves, but for what a clock has a say in."""
    steps = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    steps = [{name: value for name, value in step.items() if name not in MEASURED} for step in steps]
    weights = load_file(folder / "model.safetensors")
    return steps, (folder / "probes.jsonl").read_text(), {name: w.tolist() for name, w in weights.items()}


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> tuple:
    folder = tmp_path_factory.mktemp("straight")
    trial.run(folder, checkpoint_seconds=1e9)
    return outcome(folder)


def test_killed_twenty_times_at_random_moments_it_ends_in_the_same_bits(tmp_path, straight):
    done = subprocess.run(
        [sys.executable, trial.__file__, str(tmp_path), "20", "1"],
        capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["killed"] >= 12, "the moments are too late: it had ended by itself"
    assert len(set(facts["found"])) > 5, "it went on from where it was, and not from its beginning"
    assert outcome(tmp_path) == straight


def test_a_full_disk_in_the_middle_of_a_save_is_told_and_the_last_checkpoint_stays(tmp_path, straight):
    run_with_small_files(tmp_path)
    whole = complete(tmp_path / "checkpoints")
    assert whole, "those from before the disk was full are intact"
    trial.run(tmp_path)
    assert outcome(tmp_path) == straight


def run_with_small_files(folder: Path) -> None:
    """Train until, from step 100 on, no file may grow beyond a size that the records have not yet, and the weights have."""
    limit, before = 36_000, resource.getrlimit(resource.RLIMIT_FSIZE)
    batch = trial.RandomTokens.batch
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def filling(self: trial.RandomTokens, step: int):
        if step == 100:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        return batch(self, step)

    trial.RandomTokens.batch = filling
    try:
        with pytest.raises(UserError, match="could not be written"):
            trial.run(folder)
    finally:
        trial.RandomTokens.batch = batch
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
