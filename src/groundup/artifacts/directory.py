"""How a folder becomes an artifact: it grows under another name and gets its own in one atomic step.

`04-base.partial/` holds work in progress, with the fingerprint of the work it belongs to. Work that was cut off is
found there and continued when the fingerprint still matches, and thrown away when it does not.
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
    """Where the artifact `final` grows."""
    return final.with_name(final.name + ".partial")


def open_partial(final: Path, fingerprint: str) -> Path:
    """The work folder for `final`: the interrupted one if it did the same work, else a new, empty one."""
    partial = partial_path(final)
    mark = partial / FINGERPRINT_FILE
    if partial.exists() and not partial_matches(final, fingerprint):
        shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)
    if not mark.exists():
        write_atomically(mark, fingerprint.encode())
    return partial


def partial_matches(final: Path, fingerprint: str) -> bool:
    """Whether the work folder of `final` is there, for the work with this fingerprint."""
    mark = partial_path(final) / FINGERPRINT_FILE
    return mark.exists() and mark.read_text() == fingerprint


def promote(partial: Path, final: Path) -> None:
    """Give a finished work folder its final name, replacing an older artifact of that name.

    A crash between the two renames leaves the old artifact under `.old`; the next call clears it away.
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
    """Write a file so that a reader finds either the old bytes or all of the new ones, also after a power cut."""
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
    """Hold `folder` against a second process. Raises UserError when another one has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"{folder} is in use by another groundup process", hint="wait for it to end, or stop it"
            ) from None
        yield


def fsync(path: Path) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
