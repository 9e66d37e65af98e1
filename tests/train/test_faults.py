"""Faults of a run: kills, a full disk, corrupt data. The result is bit-identical to an undisturbed run."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trial
from safetensors.torch import load_file

from groundup.artifacts.errors import UserError
from groundup.artifacts.jsonl_file import read_jsonl
from groundup.tokenizer.token_shards import ShardWriter
from groundup.train.checkpoints import list_checkpoints
from groundup.train.throughput import NON_REPRODUCIBLE_FIELDS


def outcome(folder: Path) -> tuple:
    """All that a run leaves, but for what a clock has a say in."""
    steps = read_jsonl(folder / "steps.jsonl")
    steps = [{name: value for name, value in step.items() if name not in NON_REPRODUCIBLE_FIELDS} for step in steps]
    weights = load_file(folder / "model.safetensors")
    return steps, (folder / "eval.jsonl").read_text(), {name: w.tolist() for name, w in weights.items()}


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> tuple:
    folder = tmp_path_factory.mktemp("straight")
    trial.run(folder, checkpoint_seconds=1e9)
    return outcome(folder)


@pytest.mark.parametrize("kills", [8, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_at_random_times_change_no_bit(tmp_path, straight, kills):
    done = subprocess.run(
        [sys.executable, trial.__file__, str(tmp_path), str(kills), "1"],
        capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["killed"] >= kills // 4, (
        "the moments are too late: it had ended by itself"
    )  # how many depends on the machine
    assert outcome(tmp_path) == straight


@pytest.mark.slow
def test_full_disk_during_a_save_raises_and_keeps_the_last_checkpoint(tmp_path, straight):
    run_with_small_files(tmp_path)
    complete = list_checkpoints(tmp_path / "checkpoints")
    assert complete, "those from before the disk was full are intact"
    trial.run(tmp_path)
    assert outcome(tmp_path) == straight


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["vanishes", "is cut"])
def test_corrupt_data_file_is_named_and_the_run_resumes_after_repair(tmp_path, fault):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    tokens = write_shard(tmp_path / "tokens")
    trial.run(straight, source=trial.FromShard(tmp_path / "tokens"))
    complete = tokens.read_bytes()

    def going_wrong(step: int) -> None:
        if step == 100:
            tokens.unlink() if fault == "vanishes" else os.truncate(tokens, 1000)

    with pytest.raises(UserError, match=r"train\.bin: (no such file|1000 bytes), expected 40000 by train\.json"):
        trial.run(broken, source=trial.FromShard(tmp_path / "tokens", going_wrong))
    assert list_checkpoints(broken / "checkpoints"), "those from before are intact"
    tokens.write_bytes(complete)
    trial.run(broken, source=trial.FromShard(tmp_path / "tokens"))
    assert outcome(broken) == outcome(straight)


def write_shard(folder: Path) -> Path:
    """A shard of 20,000 tokens of a vocabulary of 64; returns its file of tokens."""
    folder.mkdir()
    ids = np.random.default_rng(0).integers(1, 64, 20_000, dtype="<u2")
    with ShardWriter(folder, "train", vocab_size=64, tokenizer="none", end_of_text=0) as writer:
        writer.append(ids, [200] * 100, ["text"] * 100, [800] * 100)
        writer.commit(100)
        writer.finish()
    return folder / "train.bin"


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
