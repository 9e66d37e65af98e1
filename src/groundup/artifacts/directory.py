"""Atomic folders and files: a stage writes into `04-base.partial/`, which is renamed to `04-base/` when it is complete.

The order at the end is: write, flush to disk, rename, then remove what only an interrupted stage needs, such as checkpoints.

A partial folder stores the fingerprint of its stage. Interrupted work continues if the fingerprint still matches, and is
deleted if it does not.
"""

import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Literal

from groundup.artifacts.errors import UserError
from groundup.artifacts.rank_environment import world_size
from groundup.artifacts.system_modules import import_posix

FINGERPRINT_FILE = ".fingerprint"

DISCARD_FILE = ".discard"
"""Relative paths in a partial folder that are no part of the result, as a JSON list; see `discard_when_complete`."""

LOCK_FILE = ".lock"
LOCKS = "locks of folders that groundup builds"
LOCK_WAIT_SECONDS, LOCK_POLL_SECONDS = 120.0, 0.2

LockKind = Literal["LOCK_EX", "LOCK_SH"]
"""Of fcntl: exclusive, shared."""

_UMASK = os.umask(0o077)  # it can only be read by setting it
os.umask(_UMASK)
DEFAULT_FILE_MODE = 0o666 & ~_UMASK
"""Permissions of a file from `open`; some libraries write mode 0600 instead."""


def partial_path(final: Path) -> Path:
    """The partial folder of `final`."""
    return final.with_name(final.name + ".partial")


def open_partial(final: Path, fingerprint: str) -> Path:
    """Open the partial folder of `final`: the interrupted one if its fingerprint matches, else a new, empty one.

    Raises UserError if its fingerprint is damaged: it may be the work of weeks, and of this recipe.
    """
    partial = partial_path(final)
    fingerprint_file = partial / FINGERPRINT_FILE
    if partial.exists() and not partial_matches(final, fingerprint):
        content = fingerprint_file.read_bytes() if fingerprint_file.exists() else b""
        if content != _encode_fingerprint(content.decode(errors="replace").partition("\n")[0]) and content:
            raise UserError(
                f"{fingerprint_file}: damaged, so whether {partial} continues this recipe is not known",
                hint=f"remove {partial} to start this stage anew",
            )
        shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)
    if not fingerprint_file.exists():
        write_atomically(fingerprint_file, _encode_fingerprint(fingerprint))
    return partial


def partial_matches(final: Path, fingerprint: str) -> bool:
    """Whether the partial folder of `final` exists and has this fingerprint."""
    path = partial_path(final) / FINGERPRINT_FILE
    return path.exists() and path.read_bytes() == _encode_fingerprint(fingerprint)


def _encode_fingerprint(fingerprint: str) -> bytes:
    """The fingerprint twice, so that a damaged one is not taken for that of another recipe."""
    return f"{fingerprint}\n{fingerprint}\n".encode()


def discard_when_complete(partial: Path, paths: Iterable[Path]) -> None:
    """Record files and folders in `partial` to remove once it is complete and renamed; until then a resume needs them."""
    names = sorted(path.relative_to(partial).as_posix() for path in paths)
    write_atomically(partial / DISCARD_FILE, json.dumps(names).encode())


def result_files(folder: Path) -> list[Path]:
    """The files of a stage's result, sorted: without temporary files, and without what is removed on completion."""
    discarded = {folder / name for name in _discarded_names(folder)}
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.relative_to(folder).as_posix() not in (FINGERPRINT_FILE, DISCARD_FILE)
        and not is_temporary(path)
        and discarded.isdisjoint((path, *path.parents))
    ]


def sync_folder(folder: Path) -> None:
    """Flush everything under `folder` to disk."""
    for path in (*folder.rglob("*"), folder):
        if not path.is_symlink():
            fsync(path)


def promote(partial: Path, final: Path) -> None:
    """Rename a complete partial folder to `final`, replacing an older folder of that name; then `finish_promotion`."""
    sync_folder(partial)
    old = final.with_name(final.name + ".old")
    if old.exists():
        shutil.rmtree(old)
    if final.exists():
        final.rename(old)
    partial.rename(final)
    fsync(final.parent)
    finish_promotion(final)


@contextmanager
def new_folder(out: Path, resumed: str | None = None) -> Iterator[Path]:
    """Context that yields the partial folder of `out`, and renames it to `out` at the end; after an error it is removed.

    A partial folder that a killed process left is emptied first, but for the entry `resumed`. Raises UserError when `out` exists
    and is not an empty folder, and for a partial folder of another process or origin.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists and is not empty", hint="choose a new folder with --out")
    partial = partial_path(out)
    if partial.exists() and not (partial / LOCK_FILE).is_file():
        raise UserError(f"{partial}: exists, and groundup did not write it", hint="rename it, or choose another --out")
    with _flock(partial, "LOCK_EX"):
        try:
            for path in partial.iterdir():
                if path.name not in (LOCK_FILE, resumed):
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            yield partial
            if out.exists():
                out.rmdir()
            (partial / LOCK_FILE).unlink()
            promote(partial, out)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def finish_promotion(final: Path) -> None:
    """Remove what a complete folder does not need; called again when the first call was interrupted."""
    old = final.with_name(final.name + ".old")
    if old.exists():
        shutil.rmtree(old, ignore_errors=True)
    if not (final / FINGERPRINT_FILE).exists():
        return
    for name in _discarded_names(final):
        path = final / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for path in final.rglob(".*"):
        if is_temporary(path):
            path.unlink(missing_ok=True)
    (final / DISCARD_FILE).unlink(missing_ok=True)
    fsync(final)
    (final / FINGERPRINT_FILE).unlink()  # last: its absence says that nothing is left to remove


def _discarded_names(folder: Path) -> list[str]:
    """The paths of `discard_when_complete`, without any that lie outside `folder`."""
    try:
        names = json.loads((folder / DISCARD_FILE).read_bytes())
    except (OSError, ValueError):
        return []
    root = folder.resolve()
    names = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    return [name for name in names if root in (root / name).resolve().parents]


def is_temporary(path: Path) -> bool:
    """Whether a file is one that a killed process was still writing: `.NAME.PID.tmp` or `.NAME.PID.part`."""
    return path.name.startswith(".") and path.suffix in (".tmp", ".part")


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


def commit_file(temporary: Path, path: Path) -> None:
    """Flush a complete temporary file to disk, then give it its name: after a power failure a named file is complete."""
    fsync(temporary)
    temporary.replace(path)


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock `folder` against other runs, until this process and every other that has joined the lock have ended.

    A folder that holds nothing but its lock afterwards is removed. Raises UserError if another run has locked it; among
    several ranks only after a while, as those of an earlier start may still be ending on another machine.
    """
    with _flock(folder, "LOCK_EX", LOCK_WAIT_SECONDS if world_size() > 1 else 0.0) as file:
        _try_flock(file, folder, "LOCK_SH")
        try:
            yield
        finally:
            with suppress(OSError):
                if [path.name for path in folder.iterdir()] == [LOCK_FILE]:
                    (folder / LOCK_FILE).unlink()
                    folder.rmdir()


@contextmanager
def join_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of this run together with its main process. Raises UserError if another run has locked `folder`."""
    with _flock(folder, "LOCK_SH"):
        yield


@contextmanager
def _flock(folder: Path, kind: LockKind, wait_seconds: float = 0.0) -> Iterator[IO[str]]:
    import_posix("fcntl", LOCKS)  # before a folder is made
    latest = time.monotonic() + wait_seconds
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        # NFS demands a readable file for a shared lock, a writable one for an exclusive lock.
        with (folder / LOCK_FILE).open("a+") as file:
            try:
                _try_flock(file, folder, kind)
            except UserError:
                if time.monotonic() >= latest:
                    raise
            else:
                if _is_open_file(file, folder / LOCK_FILE):
                    yield file
                    return
        time.sleep(LOCK_POLL_SECONDS)


def _try_flock(file: IO[str], folder: Path, kind: LockKind) -> None:
    fcntl = import_posix("fcntl", LOCKS)
    try:
        fcntl.flock(file, getattr(fcntl, kind) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"{folder} is in use by another groundup process", hint="wait until it ends, or stop it"
        ) from None
    except OSError as error:
        raise UserError(
            f"{folder}: its file system has no locks ({os.strerror(error.errno or 0)})",
            hint="use a run folder on a file system with locks, not a mounted bucket",
        ) from None


def _is_open_file(file: IO[str], path: Path) -> bool:
    """Whether `path` is still the open file: another process may have removed it before it was locked."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def fsync(path: Path) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
