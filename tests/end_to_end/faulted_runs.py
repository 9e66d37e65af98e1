"""Runs of the tiny recipe with a fault at the n-th change of the run folder, and what must be equal afterwards."""

import fcntl
import json
import multiprocessing
import os
import resource
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from groundup.artifacts.jsonl_file import read_jsonl
from groundup.artifacts.run_record import verify_run
from groundup.cli import main
from groundup.stages import STAGES
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
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def finish(process: "subprocess.Popen[str] | ForkedRun", seconds: float = 900) -> tuple[int, str]:
    """Exit code and stderr."""
    _, stderr = process.communicate(timeout=seconds)
    return process.returncode, stderr


class ForkedRun:
    """`groundup run` in a process forked from one that has imported everything, which costs as much as half of the run."""

    def __init__(self, recipe: Path, runs: Path, *arguments: str, fault: dict[str, Any] | None = None, limit: int = 0):
        path = f"{tempfile.mkdtemp()}/stderr"
        os.mkfifo(path)  # a limit of file sizes does not limit it
        self._stderr = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        fcntl.fcntl(self._stderr, fcntl.F_SETPIPE_SZ, 1 << 20)
        words = ["groundup", "run", str(recipe), "--runs", str(runs), *arguments]
        fault = fault and {"folder": str(runs)} | fault
        self._process = _FORKS.Process(target=_run_forked, args=(words, fault, limit, path, dict(os.environ)))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    @property
    def returncode(self) -> int:
        assert self._process.exitcode is not None
        return self._process.exitcode

    def communicate(self, timeout: float) -> tuple[str, str]:
        self._process.join(timeout)
        assert self._process.exitcode is not None, "it does not end"
        with open(self._stderr, errors="replace") as file:
            return "", file.read()


_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        *(stage.function.partition(":")[0] for stage in STAGES),
        *("groundup.cli", "faulted_runs", "matplotlib.pyplot", "torch.utils.tensorboard", "typst"),
    ]
)


def _run_forked(
    words: list[str], fault: dict[str, Any] | None, limit: int, stderr: str, environment: dict[str, str]
) -> None:
    os.setsid()
    for descriptor in (1, 2):
        os.dup2(os.open(stderr, os.O_WRONLY), descriptor)
    os.environ.update(environment | {"OMP_NUM_THREADS": "1"} | ({"GROUNDUP_FAULT": json.dumps(fault)} if fault else {}))
    tempfile.tempdir = None
    if fault:
        runpy.run_path(str(HOOK / "sitecustomize.py"))
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.argv = words
    main()


def check_report(code: int, stderr: str) -> str | None:
    """What is wrong with the message of a run that met a fault; None if nothing is."""
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    hints = [line for line in stderr.splitlines() if line.startswith("hint: ")]
    if code != 2 or len(errors) != 1 or len(hints) != 1 or "/" not in errors[0] or "Traceback" in stderr:
        return f"exit code {code}: {stderr[-1500:]}"
    return None


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
            records = read_jsonl(path, checksum=True)
            yield name, [{key: row[key] for key in row if key not in NON_REPRODUCIBLE_FIELDS} for row in records]
        elif path.name == "run.json":
            yield name, sorted(json.loads(path.read_text())["files"])
        elif "tensorboard/" in name or path.parent.name == "11-report":
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
    """Names of files that differ, are missing or were left behind, and what `groundup verify` finds."""
    found, expected = contents(run), contents(straight)
    names = sorted(name for name in found.keys() | expected.keys() if found.get(name, 0) != expected.get(name, 0))
    return names + verify_run(run, [run / stage.folder for stage in STAGES])


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
