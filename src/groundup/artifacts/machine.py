"""The machine of a run: device, threads, memory and folders. Recorded, never fingerprinted.

Without torch: `device` is a string; the chapters that compute resolve "auto".
"""

import math
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from groundup.artifacts.progress import Progress
from groundup.artifacts.rank_environment import local_world_size

CGROUP = Path("/sys/fs/cgroup")
"""Limits of this process, on Linux."""

ActivationCheckpointing = Literal["none", "selective", "full"]


def default_cache() -> Path:
    """Folder of downloads: $GROUNDUP_CACHE, else $XDG_CACHE_HOME/groundup, else ~/.cache/groundup."""
    if chosen := os.environ.get("GROUNDUP_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "groundup"


def usable_cores() -> int:
    """CPU cores that this process may use; in a container often fewer than the machine has.

    A container's share of the processor (cgroup cpu.max) counts: more threads than that stop each other.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (CGROUP / "cpu.max").read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no such group, or "max"
        return cores


def cores_per_process() -> int:
    """Cores per process where a launcher has started several on this machine."""
    return max(1, usable_cores() // local_world_size())


def free_system_memory() -> int | None:
    """Bytes that this process may still allocate: the lower of free memory and the cgroup limit. None if unknown."""
    limits = []
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        limits.append(int(fields["MemAvailable"].split()[0]) * 1024)
    try:
        limit, used = (CGROUP / "memory.max").read_text(), (CGROUP / "memory.current").read_text()
        limits.append(int(limit) - int(used))
    except (OSError, ValueError):  # no such group, or "max"
        pass
    return min(limits, default=None)


@dataclass(frozen=True)
class Machine:
    """The resources of a stage.

    The knobs of [machine], which `groundup explain machine` describes, with times in seconds and no None where the pipeline
    has a default; None: for `micro_batch_size` the trainer chooses, for `trackers` TensorBoard if installed, else off.
    """

    device: str = "auto"
    threads: int = field(default_factory=cores_per_process)
    micro_batch_size: int | None = None
    dataloader_threads: int = 1
    activation_checkpointing: ActivationCheckpointing = "none"
    compile: Literal["auto", "always", "never"] = "never"
    deterministic: bool = True
    cache_dir: Path = field(default_factory=default_cache)
    allowed_inputs: tuple[str, ...] | None = None
    harness_datasets: str | None = None
    reward_code: str | None = None
    offline: bool = False
    verify_inputs: bool = True
    devices: int = 1
    max_restarts: int = 3
    stall_timeout_seconds: float = 60.0
    layout: Mapping[str, Any] = field(default_factory=dict)
    checkpoint_every_seconds: float = 60.0
    keep_checkpoints: int = 2
    keep_checkpoint_every: int | None = None
    trackers: tuple[str, ...] | None = ()
    log_layer_stats_every: int | None = None
    profile_steps: tuple[int, int] | None = None
    progress: Progress = field(default_factory=Progress)


def provenance(machine: Machine, seconds: float, packages: tuple[str, ...]) -> dict[str, Any]:
    """Versions, hardware, time and commit for a manifest; never fingerprinted."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor_name(),
        "threads": machine.threads,
        "device": machine.device,
        "seconds": round(seconds, 2),
        "packages": {name: version for name in packages if (version := _package_version(name))},
        "commit": _source_commit(),
    }


def processor_name() -> str:
    """Product name of the processor."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, name = (part.strip() for part in line.partition(":"))
            if key == "model name" and name:
                return name
    return platform.processor() or platform.machine()


def _package_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _source_commit() -> str | None:
    """Commit of the source tree, with '+' if it has changes; None outside a git checkout."""
    try:
        head = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12"],
            cwd=Path(__file__).parent, capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() or None
