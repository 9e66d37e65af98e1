"""Errors of the file system that a user can correct, as one line: full disk, quota, permissions, failing device."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from groundup.artifacts.errors import UserError

_RUN_AGAIN = "run again: finished work is kept"
_HINTS = {
    errno.ENOSPC: f"free some space and {_RUN_AGAIN}",
    errno.EDQUOT: f"free some space, or ask for a larger quota, and {_RUN_AGAIN}",
    errno.EFBIG: f"raise the limit of file sizes (ulimit -f), or use a file system without one, and {_RUN_AGAIN}",
    errno.EROFS: "choose a folder on a file system that can be written to",
    errno.EACCES: "choose another folder, or change its owner or permissions",
    errno.EIO: f"check the disk, or the connection to the file server, and {_RUN_AGAIN}",
    errno.ESTALE: f"the file server has lost the file: mount the folder again and {_RUN_AGAIN}",
    errno.EPERM: "choose another folder, or change its owner or permissions",
}

_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")
"""What NumPy says, without a cause, when a file could not be written to its end."""


def describe_storage_error(error: OSError, folder: Path | None = None) -> UserError | None:
    """The UserError for a full disk, a quota, a size limit or missing permissions; None for any other error.

    Args:
        folder: named in the message if the error does not name a file.
    """
    number = errno.ENOSPC if _SHORT_WRITE.fullmatch(str(error)) else error.errno or 0
    if (hint := _HINTS.get(number)) is None:
        return None
    path = error.filename if error.filename is not None else folder
    problem = os.strerror(number).lower()
    return UserError(f"{os.fsdecode(path)}: {problem}" if path is not None else problem, hint=hint)


@contextmanager
def report_storage_errors(folder: Path) -> Iterator[None]:
    """Context in which these errors become a UserError; `folder` is named if the error does not name a file."""
    try:
        yield
    except OSError as error:
        if (known := describe_storage_error(error, folder)) is None:
            raise
        raise known from error


def native_storage_error(error: Exception, path: Path) -> OSError | None:
    """The OSError in the message of a library written in Rust, such as `... (os error 28)`; None if there is none."""
    found = re.search(r"(?:os error|code:) (\d+)", str(error))
    return OSError(int(found[1]), os.strerror(int(found[1])), str(path)) if found else None
