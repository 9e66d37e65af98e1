"""Rank and world size of this process, as torchrun and other launchers set them in the environment. Without torch."""

import os

ATTEMPT_VARIABLE = "GROUNDUP_ATTEMPT"
"""Set by `launch_ranks`: another value after each restart, the same on all ranks."""


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """The rank among the processes of this machine: the index of its device."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_world_size() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process writes records and prints."""
    return rank() == 0


def attempt() -> str:
    """What sets this start of the ranks apart from earlier ones under the same launcher."""
    return os.environ.get(ATTEMPT_VARIABLE) or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
