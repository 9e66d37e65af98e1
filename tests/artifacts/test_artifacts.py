"""Fingerprints, manifests, partial folders, atomic writes and locks."""

import errno
import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.artifacts import directory
from groundup.artifacts.errors import UserError
from groundup.artifacts.fingerprint import canonical_json, fingerprint, hash_file
from groundup.artifacts.manifest import Manifest, list_files, verify_folder
from groundup.artifacts.storage_errors import report_storage_errors

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_canonical_json_is_idempotent(value):
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text


def test_fingerprint_ignores_key_order():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    with pytest.raises(ValueError, match="not JSON compliant"):
        fingerprint(float("nan"))


def make_artifact(folder: Path) -> None:
    partial = directory.open_partial(folder, "f" * 64)
    (partial / "deep").mkdir()
    (partial / "deep" / "weights.bin").write_bytes(b"\0" * 1000)
    (partial / ".fingerprint").unlink()
    Manifest(stage="base", version=1, fingerprint="f" * 64, files=list_files(partial), metrics={"loss": 1.5}).write(
        partial
    )
    directory.promote(partial, folder)


def test_verify_finds_changed_missing_and_extra_files(tmp_path):
    folder = tmp_path / "04-base"
    make_artifact(folder)
    assert verify_folder(folder) == []
    manifest = Manifest.read(folder)
    assert manifest is not None
    assert manifest.metrics == {"loss": 1.5}
    assert not directory.partial_path(folder).exists()
    data = bytearray((folder / "deep" / "weights.bin").read_bytes())
    data[500] ^= 1
    (folder / "deep" / "weights.bin").write_bytes(data)
    (folder / "stray").touch()
    assert [line.split(":")[0:2] for line in verify_folder(folder)] == [
        ["04-base/stray", " not in the manifest"],
        ["04-base/deep/weights.bin", " changed"],
    ]
    (folder / "deep" / "weights.bin").unlink()
    assert any("missing" in line for line in verify_folder(folder))


def test_partial_folder_is_kept_only_for_the_same_fingerprint(tmp_path):
    final = tmp_path / "01-data"
    partial = directory.open_partial(final, "a" * 64)
    (partial / "shard-0").write_text("done")
    assert (directory.open_partial(final, "a" * 64) / "shard-0").exists()
    content = (partial / ".fingerprint").read_bytes()
    for position in (0, 64, 100):
        damaged = bytearray(content)
        damaged[position] ^= 1
        (partial / ".fingerprint").write_bytes(damaged)
        with pytest.raises(UserError, match="damaged, so whether"):
            directory.open_partial(final, "a" * 64)
    (partial / ".fingerprint").write_bytes(content)
    assert not (directory.open_partial(final, "b" * 64) / "shard-0").exists()
    assert Manifest.read(final) is None


def test_promote_replaces_an_older_folder(tmp_path):
    folder = tmp_path / "04-base"
    make_artifact(folder)
    (folder / "old").touch()
    make_artifact(folder)
    assert not (folder / "old").exists()
    assert not folder.with_name("04-base.old").exists()


def test_unreadable_manifest_is_a_user_error(tmp_path):
    (tmp_path / "manifest.json").write_text("{half")
    with pytest.raises(UserError, match="not valid JSON"):
        Manifest.read(tmp_path)


def test_failed_write_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        directory.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def changes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of files and folders as they are flushed, renamed and removed, in order."""
    found: list[str] = []
    fsync, replace, rename, unlink = os.fsync, Path.replace, Path.rename, os.unlink

    def record(name: str, path: Path | str, do: Callable[[], Any]) -> Any:
        found.append(f"{name} {Path(path).name}")
        return do()

    monkeypatch.setattr(os, "fsync", lambda fd: record("flush", os.readlink(f"/proc/self/fd/{fd}"), lambda: fsync(fd)))
    monkeypatch.setattr(Path, "replace", lambda path, new: record("name", new, lambda: replace(path, new)))
    monkeypatch.setattr(Path, "rename", lambda path, new: record("name", new, lambda: rename(path, new)))
    monkeypatch.setattr(os, "unlink", lambda path, **opts: record("remove", path, lambda: unlink(path, **opts)))
    return found


def test_files_are_flushed_before_they_are_named(tmp_path, changes):
    (tmp_path / ".x.part").write_text("x")
    directory.commit_file(tmp_path / ".x.part", tmp_path / "x")
    assert changes == ["flush .x.part", "name x"]


def test_folder_is_flushed_then_named_then_cleared(tmp_path, changes):
    partial = directory.open_partial(tmp_path / "a", "f")
    (partial / "weights").touch()
    (partial / "checkpoint").mkdir()
    (partial / "checkpoint" / "state").touch()
    directory.discard_when_complete(partial, [partial / "checkpoint"])
    changes.clear()
    directory.promote(partial, tmp_path / "a")
    named, parent = changes.index("name a"), changes.index(f"flush {tmp_path.name}")
    assert changes.index("flush weights") < named < parent < changes.index("remove state")
    assert not any(change.startswith("remove") for change in changes[:parent])
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["weights"]


def test_new_folder_is_complete_or_missing(tmp_path):
    out = tmp_path / "out"
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "work of somebody else").touch()
    with pytest.raises(UserError, match="groundup did not write it"), directory.new_folder(out):
        pass
    assert (tmp_path / "out.partial" / "work of somebody else").exists()
    (tmp_path / "out.partial" / "work of somebody else").rename(tmp_path / "out.partial" / "left by a killed process")
    (tmp_path / "out.partial" / directory.LOCK_FILE).touch()
    with pytest.raises(FileNotFoundError), directory.new_folder(out) as partial:
        (partial / "half").rename(partial / "missing" / "half")
    assert list(tmp_path.iterdir()) == []
    with directory.new_folder(out) as partial:
        (partial / "whole").touch()
        with pytest.raises(UserError, match="in use by another"), directory.new_folder(out):
            pass
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "whole"]
    with pytest.raises(UserError, match="not empty"), directory.new_folder(out):
        pass


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.EIO, "", "/a/b"), "/a/b: input/output error"),
        (OSError(errno.ESTALE, "", "/a/b"), "/a/b: stale file handle"),
        (OSError("9000 requested and 496 written"), "/a: no space left on device"),  # numpy.save
    ],
)
def test_storage_errors_name_file_and_cause(error, message):
    with pytest.raises(UserError) as caught, report_storage_errors(Path("/a")):
        raise error
    assert caught.value.message == message
    assert caught.value.hint


def _try_lock(folder: Path, queue) -> None:
    try:
        with directory.lock_folder(folder):
            queue.put("got it")
    except UserError as error:
        queue.put(error.message)


def test_locked_folder_is_refused_to_another_process(tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    with directory.lock_folder(tmp_path):
        process = context.Process(target=_try_lock, args=(tmp_path, queue))
        process.start()
        assert "in use" in queue.get(timeout=30)
        process.join()
    with directory.join_lock(tmp_path):  # a rank that has outlived the main process
        with pytest.raises(UserError, match="in use"), directory.lock_folder(tmp_path):
            pass
        with directory.join_lock(tmp_path):
            pass
    (tmp_path / "recipe.json").touch()
    with directory.lock_folder(tmp_path):
        pass
    assert (tmp_path / "recipe.json").exists()


def test_folder_of_a_run_refused_at_its_start_is_removed(tmp_path):
    folder = tmp_path / "runs" / "name"
    with pytest.raises(UserError, match="no text"), directory.lock_folder(folder):
        raise UserError("no text")
    assert not folder.exists()
    folder.mkdir()
    (folder / ".lock").touch()  # of an older version
    with directory.lock_folder(folder):
        pass
    assert not folder.exists()


def test_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with (
        pytest.raises(UserError, match=r"its file system has no locks \(No locks available\)"),
        directory.lock_folder(tmp_path),
    ):
        pass


def test_hash_file_is_sha256(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert hash_file(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
