"""Hashes of files that were hashed before: a file of the same path, size and time is the same file."""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from groundup.artifacts.fingerprint import hash_file
from groundup.artifacts.machine import Machine

CREATE_TABLE = "create table if not exists hashes (path text primary key, size integer, mtime integer, sha256 text) without rowid"


def cached_sha256(path: Path, machine: Machine) -> str:
    """SHA-256 of a file's content; reads the file only when it changed since the last time."""
    return cached_hashes([path], machine)[0]


def cached_hashes(paths: Iterable[Path], machine: Machine) -> list[str]:
    """SHA-256 of each file, in order."""
    machine.cache_dir.mkdir(parents=True, exist_ok=True)
    found = []
    with closing(sqlite3.connect(machine.cache_dir / "hashes.sqlite", timeout=60)) as store, store:
        store.execute(CREATE_TABLE)
        for path in paths:
            path = path.resolve()
            facts = path.stat()
            key = (str(path), facts.st_size, facts.st_mtime_ns)
            row = store.execute(
                "select sha256 from hashes where path = ? and size = ? and mtime = ?", key
            ).fetchone()
            sha256 = row[0] if row else hash_file(path)
            if not row:
                store.execute("insert or replace into hashes values (?, ?, ?, ?)", (*key, sha256))
            found.append(sha256)
    return found
