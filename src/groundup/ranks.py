"""How a run falls to several processes: what one makes alone, and what all of them make together.

On one machine `groundup run` is one process, which starts others for the stages that are made together (`perform`).
Where a launcher has started it several times already, the first one leads, the others follow, and notes in the
launcher's store say whose turn it is (`tell`). Torch is imported when there are others, and not before.
"""

import importlib
import json
import os
import time
from pathlib import Path
from typing import Any

from groundup.artifacts.directory import partial_matches, partial_path
from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine

SHARED_DISK_TIMEOUT_SECONDS = 120
"""For a folder that one rank has made, until the others see it."""

RANK_METRICS_FILE = ".metrics.json"
"""What a stage returned that was made by other processes."""

ALL_RANKS = "all-ranks"
"""A note on a stage that all ranks make; any other means that it is made."""


def world_size() -> int:
    """Processes that a launcher has started for this run; torchrun and its like say so."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this is the one that speaks."""
    return os.environ.get("RANK", "0") == "0"


def rendezvous() -> Any:
    return importlib.import_module("groundup.parallel.rendezvous")


def publish(stage: str, status: str) -> None:
    """Let the ranks that follow know whose turn it is; alone, it does nothing."""
    if world_size() > 1:
        rendezvous().publish(stage, status)


def launch_stage(final: Path, stage: str, machine: Machine) -> dict[str, Any]:
    """Let as many processes as machine.devices make a stage, whose work folder is open; returns its metrics.

    Raises UserError when this machine has fewer devices, or when the processes keep dying.
    """
    launch = importlib.import_module("groundup.parallel.elastic_launch")
    launch.check_devices(machine.device, machine.devices)
    checkpoints = partial_path(final) / "checkpoints"
    launch.launch_ranks(
        ["-m", "groundup.cli", "_worker", str(final.parent), stage],
        machine.devices,
        max_max_restarts=machine.max_restarts,
        get_progress=lambda: max((path.name for path in checkpoints.glob("step-*")), default=""),
        log=machine.progress.log,
    )
    metrics = partial_path(final) / RANK_METRICS_FILE
    found = json.loads(metrics.read_text(encoding="utf-8"))
    metrics.unlink()
    return found


def wait_for_partial_folder(final: Path, fingerprint: str) -> None:
    """Until this rank sees the work folder that the first one has opened: a shared disk may take a while."""
    latest = time.monotonic() + SHARED_DISK_TIMEOUT_SECONDS
    while not partial_matches(final, fingerprint):
        if time.monotonic() > latest:
            raise UserError(
                f"{partial_path(final)}: not seen here, or of another recipe, and the first rank works there",
                hint="all machines of a run need the same --runs folder, on a disk that they share",
            )
        time.sleep(0.2)
