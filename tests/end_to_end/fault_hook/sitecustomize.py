"""Faults of the file system in a process under test; Python imports this module at start if its folder is in PYTHONPATH.

`GROUNDUP_FAULT` is a JSON object: `folder`, `log` (a file for a line for each change in the folder), `only` (changes with this in
their path count), `at` (the number of the change, from 0, at which the fault comes), `action` (`kill`: this process,
`kill group`: its process group, or an errno, from then on), `rank` (only in the process of this rank). Each process numbers its
own changes. Bytes that native code writes are not seen here: a limit of file sizes and a small file system test those.
"""

import json
import os
import signal
import sys

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
GROWING = ("open", "mkdir", "rename", "fsync")
"""Changes that a full disk refuses; others, such as removing a file, it allows."""
FULL = (28, 122, 27, 5)
"""ENOSPC, EDQUOT, EFBIG and EIO; any other errno refuses all changes but fsync."""


def _install(fault):
    folder, log, count = fault["folder"], fault.get("log"), 0
    at, action, rank, only = fault.get("at"), fault.get("action"), fault.get("rank"), fault.get("only", "")
    if rank is not None and os.environ.get("RANK") != str(rank):
        at = None

    def absolute(path, dir_fd=None):
        path = os.fsdecode(path)
        if isinstance(dir_fd, int) and dir_fd >= 0 and not os.path.isabs(path):
            path = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), path)
        return os.path.abspath(path)

    def change(kind, path, detail=""):
        nonlocal count
        if not path.startswith(folder) or path == log:
            return
        if log:
            line = f"{os.getpid()}\t{kind}\t{os.path.relpath(path, folder)}\t{detail}\n"
            descriptor = original_open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            os.write(descriptor, line.encode())
            os.close(descriptor)
        if only not in path[len(folder) :]:
            return
        number, count = count, count + 1
        if at is None or number < at:
            return
        if action == "kill group":
            os.killpg(0, signal.SIGKILL)
        elif action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif isinstance(action, int) and (kind in GROWING if action in FULL else kind != "fsync"):
            raise OSError(action, os.strerror(action), path)

    def audit(event, arguments):
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, (str, bytes)) and isinstance(flags, int) and flags & WRITES:
                change("open", absolute(path))
        elif event == "os.rename":
            change("rename", absolute(arguments[1], arguments[3]), absolute(arguments[0], arguments[2]))
        elif event in ("os.remove", "os.rmdir", "os.mkdir") and isinstance(arguments[0], (str, bytes)):
            change(event[3:], absolute(arguments[0], arguments[-1]))

    original_open, original_fsync = os.open, os.fsync

    def fsync(descriptor):
        descriptor = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        status = os.fstat(descriptor)
        change(
            "fsync",
            os.readlink(f"/proc/self/fd/{descriptor}"),
            f"{status.st_ino} {status.st_mtime_ns} {status.st_size}",
        )
        original_fsync(descriptor)

    os.fsync = fsync
    sys.addaudithook(audit)


if "GROUNDUP_FAULT" in os.environ:
    _install(json.loads(os.environ["GROUNDUP_FAULT"]))
