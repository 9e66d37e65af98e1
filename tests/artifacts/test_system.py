"""Systems without POSIX modules, containers with a share of the processor, the version, waiting threads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import groundup
from groundup.artifacts import directory, machine
from groundup.artifacts.errors import UserError
from groundup.artifacts.system_modules import POSIX_MODULES
from groundup.train.throughput import peak_process_bytes
from groundup.viewers.alternate_screen import alternate_screen


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in POSIX_MODULES:
        monkeypatch.setitem(sys.modules, name, None)  # its import raises ModuleNotFoundError


@pytest.mark.usefixtures("windows")
def test_what_needs_a_posix_module_says_so_in_one_line(tmp_path: Path):
    with pytest.raises(UserError, match=r"^locks of folders that groundup builds: this system .* has no fcntl "):
        with directory.new_folder(tmp_path / "out"):
            pass
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match=r"^the full-screen view: this system .* has no termios "), alternate_screen():
        pass


@pytest.mark.usefixtures("windows")
def test_files_are_written_without_them(tmp_path: Path):
    directory.write_atomically(tmp_path / "recipe.toml", b"name = 'x'")
    assert (tmp_path / "recipe.toml").read_bytes() == b"name = 'x'"


def test_peak_memory_is_unknown_where_the_system_does_not_count_it(request: pytest.FixtureRequest):
    assert (peak_process_bytes() or 0) > 10e6
    request.getfixturevalue("windows")
    assert peak_process_bytes() is None


def test_threads_are_no_more_than_the_share_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    for content, cores in {"max 100000": 64, "150000 100000": 2, "20000 100000": 1, "9900000 100000": 64}.items():
        (tmp_path / "cpu.max").write_text(content + "\n")
        assert machine.usable_cores() == cores


def test_import_sets_how_threads_wait_unless_the_user_did():
    code = (
        "import os, groundup; print(groundup.__version__, os.environ['GOMP_SPINCOUNT'], os.environ['OMP_WAIT_POLICY'])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    environment["OMP_WAIT_POLICY"] = "active"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [groundup.__version__, "1000", "active"]
