"""Runs of the tiny recipe with a fault at the n-th change of the run folder, and what must be equal afterwards."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from groundup.train.throughput import NON_REPRODUCIBLE_FIELDS

HOOK = Path(__file__).parent / "fault_hook"
TIMED_METRICS = ("speed", "tokens_per_second")


class Change(NamedTuple):
    """A line of the hook's log: see `fault_hook/sitecustomize.py`."""

    process: int
    kind: str
    path: str
    detail: str


def start(
    recipe: Path,
    runs: Path,
    *arguments: str,
    fault: dict[str, Any] | None = None,
    program: Sequence[str] = (),
    **options: Any,
) -> subprocess.Popen[str]:
    """Start `groundup run` in a process group of its own; `fault` as in the hook."""
    command = [sys.executable, *program, "-m", "groundup.cli", "run", str(recipe), "--runs", str(runs), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if fault is not None:
        paths = (str(HOOK), os.environ.get("PYTHONPATH", ""))
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        environment["GROUNDUP_FAULT"] = json.dumps({"folder": str(runs)} | fault)
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True, **options
    )  # fmt: skip


def finish(process: subprocess.Popen[str], seconds: float = 600) -> tuple[int, str]:
    """Exit code and stderr."""
    _, stderr = process.communicate(timeout=seconds)
    return process.returncode, stderr


def read_log(log: Path) -> list[Change]:
    changes = []
    for line in log.read_text().splitlines() if log.exists() else []:
        process, kind, path, detail = line.split("\t")
        changes.append(Change(int(process), kind, path, detail))
    return changes


def contents(run: Path) -> dict[str, Any]:
    """All files of a run, hidden ones too, without what a clock or a process number has a say in."""
    return dict(_file_contents(run))


def _file_contents(run: Path) -> Iterator[tuple[str, Any]]:
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        if path.is_dir():
            yield name + "/", None
        elif path.name == "manifest.json":
            manifest = json.loads(path.read_text())
            files = {_without_time(file): None for file in manifest["files"]}
            yield name, manifest | {"files": files, "provenance": None, "metrics": _without_speed(manifest["metrics"])}
        elif path.name == "steps.jsonl":
            lines = map(json.loads, path.read_text().splitlines())
            yield name, [{key: line[key] for key in line if key not in NON_REPRODUCIBLE_FIELDS} for line in lines]
        elif path.name == "run.json":
            yield name, sorted(json.loads(path.read_text())["files"])
        elif "tensorboard/" in name or path.parent.name == "09-report":
            yield _without_time(name), None
        else:
            yield name, path.read_bytes()


def _without_time(name: str) -> str:
    """TensorBoard's files are named by time and process, and each start adds one."""
    return "tensorboard/events" if name.startswith("tensorboard/") else name.partition("/events.out")[0]


def _without_speed(metrics: Any) -> Any:
    if not isinstance(metrics, dict):
        return metrics
    return {name: _without_speed(value) for name, value in metrics.items() if name not in TIMED_METRICS}


def differences(run: Path, straight: Path) -> list[str]:
    """Names of files that differ, are missing or were left behind."""
    found, expected = contents(run), contents(straight)
    return sorted(name for name in found.keys() | expected.keys() if found.get(name, 0) != expected.get(name, 0))


def cut_power(run: Path, logs: Iterable[Path]) -> int:
    """Cut every file to what was flushed of it (fsync), as a power failure may; returns how many files lost bytes.

    `logs`: of all processes that wrote in this run, oldest first.
    """
    flushed: dict[int, tuple[int, int]] = {}
    for change in (change for log in logs for change in read_log(log) if change.kind == "fsync"):
        inode, changed, size = map(int, change.detail.split())
        flushed[inode] = changed, size
    lost = 0
    for path in run.rglob("*"):
        status = path.stat()
        changed, size = flushed.get(status.st_ino, (0, 0))
        if path.is_file() and status.st_size and changed != status.st_mtime_ns:
            os.truncate(path, size if size <= status.st_size else 0)
            lost += size != status.st_size
    return lost


def ranks_of(parent: int) -> Iterator[tuple[int, int]]:
    """(rank, process id) of the ranks that a process started."""
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            words = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
            if int(words["PPid"]) == parent:
                variables = (status.parent / "environ").read_bytes().decode().split("\0")
                rank = next((v for v in variables if v.startswith("RANK=")), None)
                if rank is not None:
                    yield int(rank.removeprefix("RANK=")), int(status.parent.name)
        except (OSError, ValueError):
            continue
