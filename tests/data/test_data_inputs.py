import contextlib
import dataclasses
import functools
import gzip
import hashlib
import io
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import threading
import types
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.data import archive, inputs
from groundup.data.hash_cache import cached_sha256
from groundup.data.inputs import input_hashes
from groundup.recipe.data_config import DataConfig, SourceConfig


def write(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def source(path: object, **more: object) -> SourceConfig:
    return SourceConfig.model_validate({"name": "x", "kind": "text", "path": str(path), **more})


def test_file_names_are_relative_to_the_glob_root(tmp_path: Path):
    for name in ("books/b.txt", "books/a.txt", "books/deep/c.txt", "books/.hidden/d.txt", "books/.e.txt"):
        write(tmp_path / name)
    names = lambda pattern: [name for name, _ in inputs.local_files(str(tmp_path / pattern))]  # noqa: E731
    assert names("books") == ["a.txt", "b.txt", "deep/c.txt"]
    assert names("books/*.txt") == ["a.txt", "b.txt"]
    assert names("books/**/*.txt") == ["a.txt", "b.txt", "deep/c.txt"]
    assert names("books/a.txt") == ["a.txt"]
    assert names("nothing/*") == []


def test_names_that_are_not_utf8_are_escaped(tmp_path: Path, machine: Machine):
    """Such a name ended the run: neither SQLite nor JSON stores lone surrogates."""
    for name in ("caf\udce9.txt", "line\nbreak.txt"):
        write(tmp_path / "odd" / name)
    assert [name for name, _ in inputs.local_files(str(tmp_path / "odd"))] == [r"caf\xe9.txt", "line\nbreak.txt"]
    hashes = inputs.file_hashes(source(tmp_path / "odd"), machine)
    assert set(hashes.values()) == {hashlib.sha256(b"x").hexdigest()}
    with tarfile.open(tmp_path / "odd.tar", "w") as packed:
        packed.add(tmp_path / "odd")
    assert all(
        member.name.isprintable() or "\n" in member.name for member in archive.iter_members(tmp_path / "odd.tar")
    )


def test_brackets_in_existing_names_are_literal(tmp_path: Path):
    write(tmp_path / "a[1].txt")
    assert [name for name, _ in inputs.local_files(str(tmp_path / "a[1].txt"))] == ["a[1].txt"]


def test_symlink_loop_ends(tmp_path: Path):
    write(tmp_path / "f" / "a.txt")
    os.symlink(tmp_path / "f", tmp_path / "f" / "loop")
    assert [name for name, _ in inputs.local_files(str(tmp_path / "f"))] == ["a.txt"]


def test_no_match_is_an_error(tmp_path: Path, machine: Machine):
    with pytest.raises(UserError, match="no file matches"):
        inputs.resolve_files(source(tmp_path / "*.txt"), machine)


def test_wrong_checksum_is_an_error(tmp_path: Path, machine: Machine):
    with pytest.raises(UserError, match="expected 0000"):
        inputs.resolve_files(source(write(tmp_path / "a.txt"), sha256="0" * 64), machine)


def test_fsspec_files_are_fetched_once(machine: Machine):
    import fsspec

    fsspec.filesystem("memory").pipe({"/texts/a.txt": b"one", "/texts/b.txt": b"two"})
    found = inputs.resolve_files(source("memory://texts/*.txt"), machine)
    assert [(file.name, file.path.read_bytes()) for file in found] == [("a.txt", b"one"), ("b.txt", b"two")]
    fsspec.filesystem("memory").rm("/texts", recursive=True)
    assert found[0].fetch(machine).read_bytes() == b"one"


def test_common_crawl_snapshot_resolves_to_its_files(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    fetched = []

    def download(url: str, target: Path, _: Machine, **limits: Any) -> Path:
        fetched.append(url)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(gzip.compress(b"".join(b"crawl-data/warc/%05d.warc.gz\n" % number for number in range(50))))
        return target

    monkeypatch.setattr(inputs, "download", download)
    entry = source("commoncrawl://CC-MAIN-2024-10/warc", kind="web", file_fraction=0.1)
    found = inputs.resolve_files(entry, machine, seed=3, lazy=True)
    assert len(found) == 5
    assert fetched == ["https://data.commoncrawl.org/crawl-data/CC-MAIN-2024-10/warc.paths.gz"]
    assert found == inputs.resolve_files(entry, machine, seed=3, lazy=True)
    more = inputs.resolve_files(entry.model_copy(update={"file_fraction": 0.2}), machine, seed=3, lazy=True)
    assert set(found) < set(more), "a larger sample holds the smaller one"
    assert set(found) != set(inputs.resolve_files(entry, machine, seed=4, lazy=True))


def test_missing_file_offline_is_an_error(machine: Machine):
    offline = Machine(cache_dir=machine.cache_dir, offline=True)
    with pytest.raises(UserError, match=r"book\.txt is not in the cache"):
        inputs.resolve_files(source("https://example.org/book.txt"), offline)


def tar_of(members: dict[str, bytes], path: Path, link: tuple[str, str] | None = None) -> Path:
    with tarfile.open(path, "w:gz") as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
        if link:
            info = tarfile.TarInfo(link[0])
            info.type, info.linkname = tarfile.SYMTYPE, link[1]
            file.addfile(info)
    return path


def test_unsafe_member_names_are_skipped(tmp_path: Path):
    members = {
        "top/a.txt": b"a",
        "../evil.txt": b"e",
        "/etc/evil.txt": b"e",
        "top/../../evil.txt": b"e",
        "top/sub/b.py": b"b",
    }
    made = tar_of(members, tmp_path / "t.tar.gz", link=("top/l.txt", "/etc/passwd"))
    refused: list[str] = []
    names = [member.name for member in archive.iter_members(made, strip_top=True, unsafe_names=refused)]
    assert names == ["a.txt", "sub/b.py"]
    assert refused == ["../evil.txt", "/etc/evil.txt", "top/../../evil.txt"]
    assert [member.name for member in archive.iter_members(made, "**/*.py")] == ["top/sub/b.py"]
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    assert [member.name for member in archive.iter_members(tmp_path / "z.zip", "top/*")] == ["top/a.txt"]


def read_all(path: Path) -> None:
    for member in archive.iter_members(path):
        member.stream.read()


@pytest.mark.parametrize("keep", [0, 10, 60])
def test_broken_archive_is_a_user_error(tmp_path: Path, keep: int):
    data = tar_of({"a.txt": b"a" * 5000}, tmp_path / "t.tar.gz").read_bytes()
    (tmp_path / "t.tar.gz").write_bytes(data[:keep])
    (tmp_path / "t.zip").write_bytes(data[:keep])
    for name in ("t.tar.gz", "t.zip"):
        with pytest.raises(UserError, match="not a readable archive"):
            read_all(tmp_path / name)


def test_input_hashes_follow_content_not_time(tmp_path: Path, machine: Machine):
    path = write(tmp_path / "a.txt", "one")
    section = DataConfig(sources=(source(tmp_path / "*.txt"),))
    first = input_hashes(section, machine)
    os.utime(path, ns=(1, 1))
    assert input_hashes(section, machine) == first
    write(path, "two")
    assert input_hashes(section, machine) != first


def test_file_is_hashed_once(tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch):
    path = write(tmp_path / "a.txt", "one")
    expected = cached_sha256(path, machine)
    monkeypatch.setattr("groundup.data.hash_cache.hash_file", lambda path: pytest.fail("hashed again"))
    assert cached_sha256(path, machine) == expected


def test_pinned_file_is_read_not_taken_by_size_and_time(tmp_path: Path, machine: Machine):
    path = write(tmp_path / "a.txt", "one")
    spec = source(path, sha256=hashlib.sha256(b"one").hexdigest())
    inputs.resolve_files(spec, machine)
    input_hashes(DataConfig(sources=(spec,)), machine)
    time = path.stat().st_mtime_ns
    write(path, "two")
    os.utime(path, ns=(time, time))
    with pytest.raises(UserError, match="expected 7692c3ad"):
        inputs.resolve_files(spec, machine)


@pytest.mark.parametrize("damage", ["garbage", "cut", "another table", "no hash", "a folder", "the folder is a file"])
def test_damaged_hash_cache_is_made_again(tmp_path: Path, machine: Machine, damage: str):
    path = write(tmp_path / "a.txt", "one")
    expected = cached_sha256(path, machine)
    cache = machine.cache_dir / "hashes.sqlite"
    if damage == "garbage":
        cache.write_bytes(b"\x00garbage" * 1000)
    elif damage == "cut":
        cache.write_bytes(cache.read_bytes()[:3000])
    elif damage in ("another table", "no hash"):
        statement = "drop table hashes" if damage == "another table" else "update hashes set sha256 = 7"
        with contextlib.closing(sqlite3.connect(cache)) as store, store:
            store.execute(statement)
            if damage == "another table":
                store.execute("create table hashes (a text)")
    else:
        shutil.rmtree(machine.cache_dir)
        if damage == "a folder":
            cache.mkdir(parents=True)
        else:
            write(machine.cache_dir, "x")
    lines: list[str] = []
    machine = dataclasses.replace(machine, progress=types.SimpleNamespace(log=lines.append))
    assert cached_sha256(path, machine) == expected == cached_sha256(path, machine)
    assert bool(lines) == (damage != "no hash")


def test_input_hashes_import_no_heavy_library(tmp_path: Path):
    write(tmp_path / "a.txt")
    code = (
        "import sys; from groundup.recipe.data_config import *; from groundup.data.inputs import input_hashes;"
        "from groundup.artifacts.machine import Machine; from pathlib import Path;"
        f"input_hashes(DataConfig(sources=(SourceConfig(name='x', kind='text', path={str(tmp_path / '*.txt')!r}),)),"
        f"Machine(cache_dir=Path({str(tmp_path / 'c')!r})));"
        "print([name for name in ('daft', 'torch', 'numpy', 'pyarrow', 'fsspec', 'trafilatura') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """An address on this machine, and the folder that it shows."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/", folder
        running.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


def test_common_crawl_layout(server: tuple[str, Path], machine: Machine, monkeypatch: pytest.MonkeyPatch):
    address, folder = server
    monkeypatch.setattr(inputs, "COMMON_CRAWL_URL", address)
    segment = "crawl-data/CC-MAIN-2024-10/segments/1707947473347.0"
    for kind in ("warc", "wet"):
        names = [f"{segment}/{kind}/CC-MAIN-2024-{n:05d}.warc.{kind}.gz" for n in range(6)]
        listing = folder / f"crawl-data/CC-MAIN-2024-10/{kind}.paths.gz"
        listing.parent.mkdir(parents=True, exist_ok=True)
        listing.write_bytes(gzip.compress("".join(f"{name}\n" for name in names).encode()))
        for name in names:
            write(folder / name, name)
    for kind in ("warc", "wet"):
        entry = source(f"commoncrawl://CC-MAIN-2024-10/{kind}", kind="web", file_fraction=0.5)
        found = inputs.resolve_files(entry, machine, seed=1, lazy=True)
        assert len(found) == 3
        assert not any(file.path.exists() for file in found), "each is fetched when its turn comes"
        for file in found:
            assert file.fetch(machine).read_text() == f"{segment}/{kind}/{file.name}"
    with pytest.raises(UserError, match="the server returned 404"):
        inputs.resolve_files(source("commoncrawl://CC-MAIN-1999-01", kind="web"), machine)
    with pytest.raises(UserError, match="expected warc or wet"):
        inputs.resolve_files(source("commoncrawl://CC-MAIN-2024-10/wat", kind="web"), machine)


def test_url_is_fetched_once_and_read_offline(server: tuple[str, Path], machine: Machine):
    address, folder = server
    write(folder / "b/book.txt", "said")
    (file,) = inputs.resolve_files(source(f"{address}b/book.txt"), machine)
    (folder / "b/book.txt").unlink()
    assert [path.name for path in file.path.parent.iterdir()] == ["book.txt"]
    offline = Machine(cache_dir=machine.cache_dir, offline=True)
    (again,) = inputs.resolve_files(source(f"{address}b/book.txt"), offline)
    assert (file.name, again.path.read_text()) == ("book.txt", "said")


@pytest.mark.parametrize("limited", [True, False])
def test_quota_ends_a_download_and_a_second_run_continues_it(
    server: tuple[str, Path], machine: Machine, monkeypatch: pytest.MonkeyPatch, limited: bool
):
    """Not taken for a lost connection, which would be tried again. `limited`: by http, not by fsspec."""
    address, folder = server
    text = "line\n" * 100_000
    write(folder / "book.txt", text)
    url = f"{address}book.txt" if limited else f"file://{folder}/book.txt"
    size, handler = 1000, signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit[1]))
    try:
        with pytest.raises((UserError, OSError), match=r"[Ff]ile too large"):
            inputs.resolve_files(source(url), machine)[0].fetch(machine)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert inputs.resolve_files(source(url), machine)[0].fetch(machine).read_text() == text


def test_remote_file_names_are_relative_to_the_glob_root(machine: Machine):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe({"/texts/a/1.txt": b"one", "/texts/b/1.txt": b"two", "/texts/c.bin": b"three"})
    names = lambda url: [file.name for file in inputs.resolve_files(source(url), machine)]  # noqa: E731
    assert names("memory://texts/**/*.txt") == ["a/1.txt", "b/1.txt"]
    assert names("memory://texts/*/1.txt") == ["a/1.txt", "b/1.txt"]
    assert names("memory://texts") == ["a/1.txt", "b/1.txt", "c.bin"], "a folder stands for its files"
    assert names("memory://texts/c.bin") == ["c.bin"]
    memory.rm("/texts", recursive=True)


def test_globs_do_not_follow_link_loops(tmp_path: Path):
    write(tmp_path / "f" / "deep" / "a.txt")
    for name in ("f/one", "f/two", "f/deep/three"):  # with two loops in each folder there are 2**40 ways down
        os.symlink(tmp_path / "f", tmp_path / name)
    os.symlink(tmp_path / "f" / "self", tmp_path / "f" / "self")
    for pattern in ("f/**/*.txt", "f/**", "**/*.txt", "f"):
        found = [path.resolve() for _, path in inputs.local_files(str(tmp_path / pattern))]
        assert found == [tmp_path / "f" / "deep" / "a.txt"], pattern
