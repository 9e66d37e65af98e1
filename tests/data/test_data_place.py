import io
import os
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.data import archive, place
from groundup.data.identity import identity
from groundup.data.seen import hash_once
from groundup.recipe.data import DataSection, Source


def write(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def source(path: object, **more: object) -> Source:
    return Source.model_validate({"name": "x", "kind": "text", "path": str(path), **more})


def test_files_are_named_by_what_follows_the_fixed_part(tmp_path: Path):
    for name in ("books/b.txt", "books/a.txt", "books/deep/c.txt", "books/.hidden/d.txt", "books/.e.txt"):
        write(tmp_path / name)
    names = lambda pattern: [name for name, _ in place.local_files(str(tmp_path / pattern))]  # noqa: E731
    assert names("books") == ["a.txt", "b.txt", "deep/c.txt"]
    assert names("books/*.txt") == ["a.txt", "b.txt"]
    assert names("books/**/*.txt") == ["a.txt", "b.txt", "deep/c.txt"]
    assert names("books/a.txt") == ["a.txt"]
    assert names("nothing/*") == []


def test_names_with_brackets_are_names(tmp_path: Path):
    write(tmp_path / "a[1].txt")
    assert [name for name, _ in place.local_files(str(tmp_path / "a[1].txt"))] == ["a[1].txt"]


def test_a_loop_of_links_ends(tmp_path: Path):
    write(tmp_path / "f" / "a.txt")
    os.symlink(tmp_path / "f", tmp_path / "f" / "loop")
    assert [name for name, _ in place.local_files(str(tmp_path / "f"))] == ["a.txt"]


def test_nothing_found_is_an_error(tmp_path: Path, machine: Machine):
    with pytest.raises(UserError, match="no file matches"):
        place.resolve(source(tmp_path / "*.txt"), machine)


def test_a_wrong_checksum_is_an_error(tmp_path: Path, machine: Machine):
    with pytest.raises(UserError, match="expected 0000"):
        place.resolve(source(write(tmp_path / "a.txt"), sha256="0" * 64), machine)


def test_what_fsspec_reads_is_fetched_once(machine: Machine):
    import fsspec

    fsspec.filesystem("memory").pipe({"/texts/a.txt": b"one", "/texts/b.txt": b"two"})
    found = place.resolve(source("memory://texts/*.txt"), machine)
    assert [(file.name, file.path.read_bytes()) for file in found] == [("a.txt", b"one"), ("b.txt", b"two")]
    fsspec.filesystem("memory").rm("/texts", recursive=True)
    assert found[0].fetch(machine).read_bytes() == b"one"


def test_a_snapshot_resolves_to_its_files(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    import gzip

    fetched = []

    def download(url: str, target: Path, _: Machine) -> Path:
        fetched.append(url)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(
            gzip.compress(b"".join(b"crawl-data/warc/%05d.warc.gz\n" % number for number in range(50)))
        )
        return target

    monkeypatch.setattr(place, "download", download)
    entry = source("commoncrawl://CC-MAIN-2024-10/warc", kind="web", sample_files=0.1)
    found = place.resolve(entry, machine, seed=3, later=True)
    assert len(found) == 5
    assert fetched == ["https://data.commoncrawl.org/crawl-data/CC-MAIN-2024-10/warc.paths.gz"]
    assert found == place.resolve(entry, machine, seed=3, later=True)
    more = place.resolve(entry.model_copy(update={"sample_files": 0.2}), machine, seed=3, later=True)
    assert set(found) < set(more), "a larger sample holds the smaller one"
    assert set(found) != set(place.resolve(entry, machine, seed=4, later=True))


def test_offline_names_what_is_missing(machine: Machine):
    offline = Machine(cache=machine.cache, offline=True)
    with pytest.raises(UserError, match=r"book\.txt is not in the cache"):
        place.resolve(source("https://example.org/book.txt"), offline)


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


def test_members_that_climb_out_are_passed_over(tmp_path: Path):
    members = {
        "top/a.txt": b"a",
        "../evil.txt": b"e",
        "/etc/evil.txt": b"e",
        "top/../../evil.txt": b"e",
        "top/sub/b.py": b"b",
    }
    made = tar_of(members, tmp_path / "t.tar.gz", link=("top/l.txt", "/etc/passwd"))
    assert [member.name for member in archive.members(made, strip_top=True)] == ["a.txt", "sub/b.py"]
    assert [member.name for member in archive.members(made, "**/*.py")] == ["top/sub/b.py"]
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    assert [member.name for member in archive.members(tmp_path / "z.zip", "top/*")] == ["top/a.txt"]


def read_all(path: Path) -> None:
    for member in archive.members(path):
        member.stream.read()


@pytest.mark.parametrize("keep", [0, 10, 60])
def test_broken_archives_are_an_error_for_people(tmp_path: Path, keep: int):
    data = tar_of({"a.txt": b"a" * 5000}, tmp_path / "t.tar.gz").read_bytes()
    (tmp_path / "t.tar.gz").write_bytes(data[:keep])
    (tmp_path / "t.zip").write_bytes(data[:keep])
    for name in ("t.tar.gz", "t.zip"):
        with pytest.raises(UserError, match="not a readable archive"):
            read_all(tmp_path / name)


def test_identity_follows_content_and_not_time(tmp_path: Path, machine: Machine):
    path = write(tmp_path / "a.txt", "one")
    section = DataSection(sources=(source(tmp_path / "*.txt"),))
    first = identity(section, machine)
    os.utime(path, ns=(1, 1))
    assert identity(section, machine) == first
    write(path, "two")
    assert identity(section, machine) != first


def test_a_file_is_hashed_once(tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch):
    path = write(tmp_path / "a.txt", "one")
    expected = hash_once(path, machine)
    monkeypatch.setattr("groundup.data.seen.hash_file", lambda path: pytest.fail("hashed again"))
    assert hash_once(path, machine) == expected


def test_identity_is_quick_and_imports_no_engine(tmp_path: Path):
    write(tmp_path / "a.txt")
    code = (
        "import sys; from groundup.recipe.data import *; from groundup.data.identity import identity;"
        "from groundup.artifacts.machine import Machine; from pathlib import Path;"
        f"identity(DataSection(sources=(Source(name='x', kind='text', path={str(tmp_path / '*.txt')!r}),)),"
        f"Machine(cache=Path({str(tmp_path / 'c')!r})));"
        "print([name for name in ('daft', 'torch', 'numpy', 'pyarrow', 'fsspec', 'trafilatura') if name in sys.modules])"
    )
    began = time.monotonic()
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    assert time.monotonic() - began < 10
