"""A full disk, a quota, read-only folders, missing permissions and a failing device at every stage.

Each is one line with a path and a hint; once it is over, the run continues to equal results and no file is left.
"""

import errno
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faulted_runs import ForkedRun, check_report, differences, finish

from groundup.stages import STAGES

ERRORS = ("ENOSPC", "EDQUOT", "EFBIG", "EIO", "EROFS", "EACCES", "EPERM")


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_injected_faults_at_every_stage(tiny_recipe: Path, straight, tmp_path: Path):
    """Each error at a random change of each stage, and again from then on; then a limit of file sizes."""
    expected, changes = straight
    generator, wrong = random.Random(1), []
    for stage in STAGES:
        cells, rebuild = [], []
        largest = max(p.stat().st_size for p in (expected / stage.folder).rglob("*") if p.is_file())
        for name in (*ERRORS, "ulimit -f"):
            first, code, stderr, moment = generator.random(), 0, "", ""
            for part in (first, first / 2, first / 4, 0.0):  # a stage that goes on makes fewer changes: again, earlier
                at, size = int(part * changes[stage.folder]), 100 + int(0.7 * part * largest)
                options: dict[str, Any] = {"limit": size}
                if name in ERRORS:
                    options = {"fault": {"only": stage.folder, "at": at, "action": getattr(errno, name)}}
                code, stderr = finish(ForkedRun(tiny_recipe, tmp_path, "--until", stage.name, *rebuild, **options))
                rebuild = ["--from", stage.name] if code == 0 else []
                moment = f"change {at}" if name in ERRORS else f"{size} bytes"
                if code:
                    break
            problem = check_report(code, stderr)
            cells.append(f"{name} {'WRONG' if problem else 'ok'}")
            if problem:
                wrong.append(f"{stage.name}, {name}, {moment}: {problem}")
                print(wrong[-1], flush=True)
        code, stderr = finish(ForkedRun(tiny_recipe, tmp_path, "--until", stage.name))
        if code:
            wrong.append(f"{stage.name}: does not go on: {stderr[-1500:]}")
        print(f"{stage.name:<10} " + ", ".join(cells), flush=True)
    assert not wrong, "\n\n".join(wrong)
    assert differences(tmp_path / "tiny", expected) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Path, Callable[[int], None]]]:
    """A file system in memory, and a function that sets its size in bytes."""

    def mount(*options: str) -> int:
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "none", str(tmp_path)]
        return subprocess.run(command, capture_output=True, check=False).returncode

    if os.geteuid() or mount("size=100m"):
        pytest.skip("file systems cannot be mounted here")
    try:
        yield tmp_path, lambda size: mount("remount", f"size={size}") and pytest.fail("not resized")
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_full_file_system_at_every_stage(tiny_recipe: Path, straight, small_disk, monkeypatch):
    """The run, its cache and its temporary files on a file system that is nearly full, three times a stage."""
    expected, _ = straight
    disk, resize = small_disk
    (disk / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(disk / "tmp"))
    monkeypatch.setenv("GROUNDUP_CACHE", str(disk / "cache"))
    generator, wrong = random.Random(2), []
    for stage in STAGES:
        cells = []
        size = sum(p.stat().st_size for p in (expected / stage.folder).rglob("*") if p.is_file())
        for _ in range(3):
            status = os.statvfs(disk)
            free = generator.randrange(size)
            resize((status.f_blocks - status.f_bfree) * status.f_bsize + free)
            code, stderr = finish(ForkedRun(tiny_recipe, disk / "runs", "--until", stage.name))
            problem = None if code == 0 else check_report(code, stderr)
            cells.append(f"{free} free {'not met' if code == 0 else 'WRONG' if problem else 'ok'}")
            if problem:
                wrong.append(f"{stage.name}, {free} bytes free: {problem}")
                print(wrong[-1], flush=True)
        resize(100 << 20)
        code, stderr = finish(ForkedRun(tiny_recipe, disk / "runs", "--until", stage.name))
        if code:
            wrong.append(f"{stage.name}: does not go on: {stderr[-1500:]}")
        print(f"{stage.name:<10} " + ", ".join(cells), flush=True)
    assert not wrong, "\n\n".join(wrong)
    assert differences(disk / "runs/tiny", expected) == []
    assert list((disk / "tmp").iterdir()) == []
    assert [path.name for path in (disk / "cache").iterdir()] == ["hashes.sqlite"]
