"""Modules of Python that not every system has: imported where they are used, never when a file of this package is imported."""

import importlib
import platform
from typing import Any

from groundup.artifacts.errors import UserError

POSIX_MODULES = ("fcntl", "grp", "pwd", "readline", "resource", "syslog", "termios", "tty", "pty")
"""Linux and macOS have them, Windows has not."""


def import_posix(name: str, purpose: str) -> Any:
    """The module `name`. Raises UserError, which names `purpose`, on a system without it.

    >>> import_posix("fcntl", "locks of run folders").__name__
    'fcntl'
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(
            f"{purpose}: this system ({platform.system()}) has no {name}",
            hint="use Linux or macOS; on Windows, the Windows Subsystem for Linux (WSL 2)",
        ) from None
