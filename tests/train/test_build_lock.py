"""The lock of C++ builds: taken from a killed process, and waited for while its holder lives."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.utils.file_baton import FileBaton

from groundup.train.engines.build_lock import BuildLock

HOLDER = """
import os, sys
os.open(sys.argv[1], os.O_CREAT | os.O_EXCL)  # as torch's FileBaton
print("held", flush=True)
sys.stdin.readline()
os.close(os.open(sys.argv[1] + ".released", os.O_CREAT))
os.remove(sys.argv[1])
"""


@pytest.fixture
def holder(tmp_path):
    """A process with PyTorch's lock, until it reads a line."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "lock")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def acquire_and_release(path):
    """Whether the holder before had released the lock."""
    lock = BuildLock(path)
    assert lock.try_acquire()
    assert path.exists()
    was_released = path.with_name("lock.released").exists()
    lock.release()
    assert not path.exists()
    return was_released


def test_lock_file_that_nobody_uses_is_taken_over(tmp_path):
    (tmp_path / "lock").touch()
    assert not FileBaton(tmp_path / "lock").try_acquire()  # and would wait without end
    for _ in range(2):
        acquire_and_release(tmp_path / "lock")


def test_lock_of_a_killed_process_is_taken_over(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert not acquire_and_release(tmp_path / "lock")


def test_other_program_is_waited_for(tmp_path, holder):
    with ThreadPoolExecutor(1) as pool:
        acquired = pool.submit(acquire_and_release, tmp_path / "lock")
        holder.communicate("\n")
        assert acquired.result()


def test_other_build_is_waited_for(tmp_path):
    first = BuildLock(tmp_path / "lock")
    assert first.try_acquire()
    with ThreadPoolExecutor(1) as pool:
        acquired = pool.submit(acquire_and_release, tmp_path / "lock")
        (tmp_path / "lock.released").touch()
        first.release()
        assert acquired.result()
