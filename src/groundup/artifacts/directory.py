"""Atomic folders and files: a stage writes into `04-base.partial/`, which is renamed to `04-base/` when it is complete.

A partial folder stores the fingerprint of its stage. Interrupted work continues if the fingerprint still matches, and is
deleted if it does not.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from groundup.artifacts.errors import UserError

FINGERPRINT_FILE = ".fingerprint"

_UMASK = os.umask(0o077)  # it can only be read by setting it
os.umask(_UMASK)
DEFAULT_FILE_MODE = 0o666 & ~_UMASK
"""Permissions of a file from `open`; some libraries write mode 0600 instead."""


def partial_path(final: Path) -> Path:
    """The partial folder of `final`."""
    return final.with_name(final.name + ".partial")


def open_partial(final: Path, fingerprint: str) -> Path:
    """Open the partial folder of `final`: the interrupted one if its fingerprint matches, else a new, empty one."""
    partial = partial_path(final)
    fingerprint_file = partial / FINGERPRINT_FILE
    if partial.exists() and not partial_matches(final, fingerprint):
        shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)
    if not fingerprint_file.exists():
        write_atomically(fingerprint_file, fingerprint.encode())
    return partial


def partial_matches(final: Path, fingerprint: str) -> bool:
    """Whether the partial folder of `final` exists and has this fingerprint."""
    path = partial_path(final) / FINGERPRINT_FILE
    return path.exists() and path.read_text() == fingerprint


def promote(partial: Path, final: Path) -> None:
    """Rename a complete partial folder to `final`, replacing an older folder of that name.

    A crash between the two renames leaves the older folder under `.old`; the next call deletes it.
    """
    (partial / FINGERPRINT_FILE).unlink(missing_ok=True)
    for path in partial.rglob("*"):
        if path.is_file():
            fsync(path)
    old = final.with_name(final.name + ".old")
    if old.exists():
        shutil.rmtree(old)
    if final.exists():
        final.rename(old)
    partial.rename(final)
    fsync(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that readers see the old content or the new one, never a part, also after a power failure."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock `folder` against other processes. Raises UserError if another one has locked it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"{folder} is in use by another groundup process", hint="wait until it ends, or stop it"
            ) from None
        yield


def fsync(path: Path) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
