"""SHA-256 of files, cached by path, size and modification time."""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from groundup.artifacts.fingerprint import hash_file
from groundup.artifacts.machine import Machine

CREATE_TABLE = (
    "create table if not exists hashes (path text primary key, size integer, mtime integer, sha256 text) without rowid"
)


def cached_sha256(path: Path, machine: Machine) -> str:
    """SHA-256 of a file, read only if path, size or time changed."""
    return cached_hashes([path], machine)[0]


def cached_hashes(paths: Iterable[Path], machine: Machine) -> list[str]:
    """SHA-256 of each file, in order."""
    machine.cache_dir.mkdir(parents=True, exist_ok=True)
    hashes = []
    with closing(sqlite3.connect(machine.cache_dir / "hashes.sqlite", timeout=60)) as store, store:
        store.execute(CREATE_TABLE)
        for path in paths:
            path = path.resolve()
            stat = path.stat()
            key = (str(path), stat.st_size, stat.st_mtime_ns)
            row = store.execute("select sha256 from hashes where path = ? and size = ? and mtime = ?", key).fetchone()
            sha256 = row[0] if row else hash_file(path)
            if not row:
                store.execute("insert or replace into hashes values (?, ?, ?, ?)", (*key, sha256))
            hashes.append(sha256)
    return hashes
