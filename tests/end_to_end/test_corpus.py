"""The corpus of recipes/corpus.toml from real inputs: equal on the native engine, on Ray, and after random kills.

Takes most of an hour on two cores, and 0.5 GB of downloads unless CORPUS_INPUTS names the folder that
recipes/corpus_inputs.py made.
"""

import gzip
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from groundup.artifacts.manifest import Manifest

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "corpus.toml"
KILLS = 4

pytestmark = [pytest.mark.slow, pytest.mark.timeout(10_000)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Working folder with the inputs of the recipe."""
    folder = tmp_path_factory.mktemp("corpus")
    if given := os.environ.get("CORPUS_INPUTS"):
        (folder / "corpus-inputs").symlink_to(Path(given).resolve())
    else:
        made = subprocess.run([sys.executable, str(ROOT / "recipes" / "corpus_inputs.py")], cwd=folder, check=False)
        if made.returncode:
            pytest.skip("the inputs cannot be fetched here: see recipes/corpus_inputs.py")
    return folder


@pytest.fixture(scope="module")
def uninterrupted(folder: Path) -> tuple[Manifest, float]:
    """The corpus of an uninterrupted run, and its seconds."""
    started_at = time.perf_counter()
    return build(folder, "uninterrupted", "native"), time.perf_counter() - started_at


def command(runs: str, engine: str) -> list[str]:
    program = [sys.executable, "-m", "groundup.cli", "run", str(RECIPE), "--runs", runs]
    return [*program, "--set", f"data.executor={engine}", "--set", "machine.threads=2"]


def build(folder: Path, runs: str, engine: str) -> Manifest:
    done = subprocess.run(command(runs, engine), cwd=folder, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    manifest = Manifest.read(folder / runs / "corpus" / "01-data")
    assert manifest is not None
    return manifest


def build_with_kills(folder: Path, runs: str, engine: str, seconds: float) -> Manifest:
    """Kill the process KILLS times, each at a random moment of the time of an uninterrupted run, then let it finish."""
    seed = time.time_ns()
    print(f"{engine}: kills drawn with seed {seed}")
    generator, kills, longest = random.Random(seed), 0, seconds
    work = folder / runs / "corpus" / "01-data.partial" / "work"
    while kills < KILLS:
        process = subprocess.Popen(
            command(runs, engine),
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            process.wait(generator.uniform(0.02, 1.0) * longest)
        except subprocess.TimeoutExpired:
            done = {folder.name: len(list(folder.glob("*.json"))) for folder in work.glob("*") if folder.is_dir()}
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
            print(f"{engine}: killed with {done or 'nothing'} done", flush=True)
        process.wait()
        if process.returncode == 0 and kills:
            break  # it finished before the next moment
        if process.returncode == 0:  # before the first one: once more, and sooner
            shutil.rmtree(folder / runs)
            longest /= 2
    return build(folder, runs, engine)


def content(manifest: Manifest) -> dict[str, Any]:
    return {"fingerprint": manifest.fingerprint, "files": manifest.files, "metrics": manifest.metrics}


def test_killed_build_gives_an_equal_corpus(folder: Path, uninterrupted: tuple[Manifest, float]):
    manifest, seconds = uninterrupted
    assert content(build_with_kills(folder, "killed", "native", seconds)) == content(manifest)


def test_ray_gives_an_equal_corpus(folder: Path, uninterrupted: tuple[Manifest, float]):
    pytest.importorskip("ray")
    started_at = time.perf_counter()
    assert content(build(folder, "ray", "ray")) == content(uninterrupted[0])
    seconds = time.perf_counter() - started_at
    assert content(build_with_kills(folder, "ray-killed", "ray", seconds)) == content(uninterrupted[0])


def test_filter_counts_add_up(folder: Path, uninterrupted: tuple[Manifest, float]):
    metrics = uninterrupted[0].metrics
    for name, row in [*metrics["sources"].items(), ("total", metrics["total"])]:
        dropped = row["dropped"].values()
        assert row["read"]["documents"] == row["kept"]["documents"] + sum(one["documents"] for one in dropped), name
        lost = sum(one["bytes"] for one in dropped) + sum(row["trimmed"].values())
        assert row["read"]["bytes"] == row["kept"]["bytes"] + lost, name
        written = [row[split] for split in ("train", "validation")]
        assert row["kept"]["documents"] == sum(split["documents"] for split in written), name
        assert row["kept"]["bytes"] == sum(split["bytes"] for split in written), name
    rows = [
        row
        for split in ("train", "validation")
        for path in sorted((folder / "uninterrupted" / "corpus" / "01-data" / split).glob("*.parquet"))
        for row in pyarrow.parquet.read_table(path).to_pylist()
    ]
    assert len(rows) == metrics["total"]["kept"]["documents"]
    assert sum(len(row["text"].encode("utf-8", "surrogatepass")) for row in rows) == metrics["total"]["kept"]["bytes"]


def test_all_input_documents_are_counted(folder: Path, uninterrupted: tuple[Manifest, float]):
    """Counted without the readers of groundup."""
    sources = uninterrupted[0].metrics["sources"]
    read = {name: row["read"]["documents"] for name, row in sources.items()}
    inputs = folder / "corpus-inputs"
    assert read["code"] == sum(1 for path in (inputs / "stdlib").rglob("*.py") if path.is_file())
    assert read["mail"] == len(list(inputs.glob("mail/*ham*/*.txt")))
    counts = [
        len(re.findall(rb"^WARC-Type: (?:response|revisit)\r$", gzip.decompress(path.read_bytes()), re.MULTILINE))
        for path in inputs.glob("crawl/*.warc.gz")
    ]
    assert sum(counts) > 2_000
    assert read["crawl"] == sum(counts) + counts.count(0)  # a file without a page is a drop as well
