"""kill -9 in each pass, native and on Ray: the continued run equals an uninterrupted one."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from groundup.artifacts.manifest import Manifest

SOURCES = 5
MOMENTS = ("clean/00001.json", "duplicates.npz", "partitioned/00001.json", "partitioned/1.written.json")
"""One file of each pass; the process is killed when it exists."""


@pytest.fixture
def recipe_file(tmp_path: Path, prose: Callable[..., str]) -> Path:
    """Several units, several shards, duplicates across sources."""
    lines = ['name = "killed"', "[data]", "validation_fraction = 0.1", "shard_megabytes = 0.05"]
    for source in range(SOURCES):
        path = tmp_path / f"{source}.jsonl"
        texts = [prose(seed, 220) for seed in range(40 * source, 40 * source + 60)]
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        lines += ["[[data.sources]]", f'name = "s{source}"', 'kind = "jsonl"', f'path = "{path}"']
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("\n".join(lines))
    return recipe


def command(recipe: Path, runs: Path, engine: str) -> list[str]:
    program = [sys.executable, "-m", "groundup.cli", "run", str(recipe), "--runs", str(runs)]
    return [*program, "--set", f"data.executor={engine}", "--set", "machine.threads=2"]


def build(recipe: Path, runs: Path, engine: str) -> Manifest:
    subprocess.run(command(recipe, runs, engine), check=True, timeout=400, capture_output=True)
    manifest = Manifest.read(runs / "killed" / "01-data")
    assert manifest is not None
    return manifest


def build_with_kills(recipe: Path, runs: Path, engine: str, moments: tuple[str, ...]) -> tuple[Manifest, int]:
    """Kill the process when a file exists, once per file; then let it finish."""
    work = runs / "killed" / "01-data.partial" / "work"
    kills = 0
    for moment in moments:
        process = subprocess.Popen(command(recipe, runs, engine), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (work / moment).exists():
            time.sleep(0.01)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    return build(recipe, runs, engine), kills


def content(manifest: Manifest) -> dict[str, Any]:
    return {"fingerprint": manifest.fingerprint, "files": manifest.files, "metrics": manifest.metrics}


def check(recipe: Path, folder: Path, engine: str, moments: tuple[str, ...]) -> Manifest:
    straight = build(recipe, folder / "straight", engine)
    continued, kills = build_with_kills(recipe, folder / "continued", engine, moments)
    assert kills >= max(1, len(moments) - 1), "the machine was too fast to be killed"
    assert content(continued) == content(straight)
    assert straight.metrics["sources"]["s1"]["dropped"]["exact_duplicate"]["documents"] > 0
    assert not any(name.endswith(".part") for name in os.listdir(folder / "continued/killed/01-data/train"))
    return straight


def test_killed_run_equals_straight_run(recipe_file: Path, tmp_path: Path):
    check(recipe_file, tmp_path, "native", MOMENTS[:1])


@pytest.mark.slow
def test_killed_run_equals_straight_run_native_and_ray(recipe_file: Path, tmp_path: Path):
    pytest.importorskip("ray")
    native = check(recipe_file, tmp_path / "native", "native", MOMENTS)
    ray = check(recipe_file, tmp_path / "ray", "ray", MOMENTS)
    assert content(ray) == content(native)
