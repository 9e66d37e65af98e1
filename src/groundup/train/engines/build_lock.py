"""A lock for PyTorch's builds of C++ extensions that ends with its process.

PyTorch locks the folder of an extension by a file that exists (torch.utils.file_baton). A process that is killed while it
builds leaves the file, and every later process waits for its removal without a word.
"""

import os
import time
from pathlib import Path

from torch.utils.file_baton import FileBaton

from groundup.artifacts.system_modules import import_posix


class BuildLock(FileBaton):
    """FileBaton under a file lock, which the kernel releases with its process.

    Whoever has the file lock removes a lock file that nobody uses. Programs with PyTorch's own class on the same folder
    wait for this one, and this one for them.
    """

    def try_acquire(self) -> bool | None:
        """Wait for other builds in this folder, then take the lock. Builds after the first find nothing to do."""
        path = Path(self.lock_file_path)
        self._owner = os.open(path.with_name(f"{path.name}.owner"), os.O_CREAT | os.O_WRONLY, 0o644)
        fcntl = import_posix("fcntl", "locks of builds")
        fcntl.flock(self._owner, fcntl.LOCK_EX)
        while is_build_running(path):
            time.sleep(self.wait_seconds)
        path.unlink(missing_ok=True)
        return super().try_acquire()

    def release(self) -> None:
        super().release()
        os.close(self._owner)

    def wait(self) -> None:
        super().wait()
        os.close(self._owner)


def is_build_running(lock: Path) -> bool:
    """Whether another process of this machine has the lock file open, or is a `ninja` that builds in its folder."""
    folder = lock.parent.resolve()
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) == os.getpid():
            continue
        try:
            builds_here = os.readlink(process / "cwd") == str(folder) and _name(process) == "ninja"
            open_files = {os.readlink(link) for link in (process / "fd").iterdir()}
        except OSError:  # ended, or of another user
            continue
        if builds_here or str(folder / lock.name) in open_files:
            return True
    return False


def _name(process: Path) -> str:
    return (process / "comm").read_text(encoding="utf-8", errors="replace").strip()


def use_build_lock() -> None:
    """Lock the builds of extensions in this process by BuildLock."""
    from torch.utils import cpp_extension  # imports setuptools

    cpp_extension.FileBaton = BuildLock
