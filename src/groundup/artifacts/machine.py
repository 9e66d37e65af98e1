"""Where we run: never part of what a run is. The same recipe on another machine is the same run.

Deliberately without torch: `device` stays a word ("cpu", "cuda", "auto"); the chapters that compute resolve "auto".
"""

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

ActivationCheckpointing = Literal["none", "selective", "full"]


def default_cache() -> Path:
    """The folder for what was downloaded: $GROUNDUP_CACHE, else $XDG_CACHE_HOME/groundup, else ~/.cache/groundup."""
    if chosen := os.environ.get("GROUNDUP_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "groundup"


def usable_cores() -> int:
    """The CPU cores that this process may run on, which a container may make fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores_per_process() -> int:
    """The cores for this process, where a launcher has started several of them on this machine."""
    return max(1, usable_cores() // local_world_size())


@dataclass(frozen=True)
class Machine:
    """What a stage may use.

    Attributes:
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        threads: CPU threads for one process.
        micro_batch: sequences that one forward pass holds; None lets the trainer choose. Never changes the effective
            batch.
        loader_threads: threads that make training batches ahead of their step.
        activation_checkpointing: none, selective or full.
        compile: auto, always or never.
        deterministic: the same bits every time on an accelerator too.
        cache: folder for downloads, shared by all runs.
        offline: never fetch; a missing input is an error.
        devices: how many processes make the stages that are made together.
        restarts: times that they are started again after one died, without a checkpoint in between.
        stall_seconds: time without a step after which they tell who waits for whom.
        layout: how several devices share the work: the knobs of [machine.layout], by name.
        checkpoint_seconds: time between two checkpoints of a training run.
        keep_checkpoints, keep_every: how many of the newest stay, and one every so many steps beside them.
        trackers: names of the boards that get copies of a training run's records; None: TensorBoard, if it is there.
        layers_every: steps between two records of each layer's gradients and activations; None: never.
        trace_steps: first and last step of a trace of where the time goes.
        progress: where long work reports how far it is.
    """

    device: str = "auto"
    threads: int = field(default_factory=cores_per_process)
    micro_batch_size: int | None = None
    dataloader_threads: int = 1
    activation_checkpointing: ActivationCheckpointing = "none"
    compile: Literal["auto", "always", "never"] = "never"
    deterministic: bool = True
    cache_dir: Path = field(default_factory=default_cache)
    offline: bool = False
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
    """What a manifest records about the circumstances. Nothing here is read back or fingerprinted."""
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
    """The processor's marketing name, as the operating system tells it."""
    if sys.platform == "linux":
        fields: Mapping[str, str] = dict(
            (part.strip() for part in line.split(":", 1))  # type: ignore[misc]
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if ":" in line
        )
        if name := fields.get("model name"):
            return name
    return platform.processor() or platform.machine()


def _package_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _source_commit() -> str | None:
    """The commit of the source tree that we run from, with a '+' when it was changed; None outside a checkout."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12"],
            cwd=here, capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() or None
