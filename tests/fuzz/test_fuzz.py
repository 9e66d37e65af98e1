"""Damaged files at every door: read, refused in one line, or skipped and counted; never a traceback, 5 seconds or 2 GB."""

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from isolation import Outcomes, call_isolated
from mutations import damage
from readers import Reader, all_readers

SMALL, LARGE = 4, 20_000
"""Damaged files of each reader in the usual run; of all readers together in the slow one."""


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> list[Reader]:
    return all_readers(tmp_path_factory.mktemp("valid"))


def read_damaged(reader: Reader, index: int, work: Path) -> str | None:
    """Read a copy of the folder in which one file is damaged; `index` decides how."""
    generator = random.Random(f"{reader.name} {index}")
    folder = work / f"{index}"
    shutil.rmtree(folder, ignore_errors=True)  # of a call that was stopped
    shutil.copytree(reader.folder, folder)
    try:
        path = folder / generator.choice(reader.files)
        path.write_bytes(damage(path.name, path.read_bytes(), generator))
        result = reader.read(folder)
        return result if isinstance(result, str) else None
    finally:
        shutil.rmtree(folder)


def fuzz(readers: list[Reader], count: int, work: Path) -> str:
    """A table of outcomes by reader. Raises AssertionError with every fault."""
    rows, faults, total = [], [], Outcomes()
    for reader in readers:
        outcomes = Outcomes()
        call_isolated(
            lambda index, reader=reader: read_damaged(reader, index, work), range(round(count * reader.share)), outcomes
        )
        counts = outcomes.counts
        total.counts += counts
        columns = [counts[kind] for kind in ("read", "refused", "dropped", "fault", "slow", "died")]
        rows.append(f"| {reader.name} | {' | '.join(map(str, columns))} | {outcomes.slowest:.2f} |")
        faults += [f"{reader.name} {fault}" for fault in outcomes.faults]
        print(rows[-1], *outcomes.faults[:3], sep="\n", flush=True)
    head = "| reader | read | refused | dropped | traceback | over 5 s | over 2 GB | slowest, s |\n|---|" + "---:|" * 7
    print(f"{total.counts.total()} files: {dict(total.counts)}")
    assert not faults, f"{len(faults)} faults\n" + "\n".join(faults[:20])
    return "\n".join([head, *rows])


def test_valid_files_are_read(readers: list[Reader], tmp_path: Path):
    for number, reader in enumerate(readers):
        folder = shutil.copytree(reader.folder, tmp_path / str(number))
        if not reader.name.startswith("config.json, ") or reader.name.endswith("Llama"):
            reader.read(folder)


def test_some_damaged_files():
    """In a process of its own: one that has threads, as after other tests, must not fork."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "slow", f"{__file__}::test_few_damaged_files"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-5000:]


@pytest.mark.slow
def test_few_damaged_files(readers: list[Reader], tmp_path: Path):
    fuzz(readers, SMALL, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(20_000)
def test_twenty_thousand_damaged_files(readers: list[Reader], tmp_path: Path):
    print(fuzz(readers, -(-LARGE // len(readers)), tmp_path))
