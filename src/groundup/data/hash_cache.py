"""SHA-256 of files, cached by path, size and modification time.

For fingerprints only: a file can change and keep its size and time, so where the recipe pins a hash, the content is read.
"""

import re
import sqlite3
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path

from groundup.artifacts.fingerprint import hash_file
from groundup.artifacts.machine import Machine
from groundup.data.archive import valid_name

CREATE_TABLE = (
    "create table if not exists hashes (path text primary key, size integer, mtime integer, sha256 text) without rowid"
)


def cached_sha256(path: Path, machine: Machine) -> str:
    """SHA-256 of a file, read only if path, size or time changed."""
    return cached_hashes([path], machine)[0]


def cached_hashes(paths: Iterable[Path], machine: Machine) -> list[str]:
    """SHA-256 of each file, in order. A damaged cache is removed and made again; without a usable one all files are read."""
    paths, cache = [path.resolve() for path in paths], machine.cache_dir / "hashes.sqlite"
    for _ in range(2):
        try:
            cache.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(cache, timeout=60)) as store, store:
                store.execute(CREATE_TABLE)
                return [_cached_hash(path, store) for path in paths]
        except (sqlite3.Error, FileExistsError, NotADirectoryError, PermissionError) as error:
            machine.progress.log(f"{cache}: the cache of file hashes is not usable ({error}), so files are read again")
            with suppress(OSError):
                cache.unlink()
    return [hash_file(path) for path in paths]


def _cached_hash(path: Path, store: sqlite3.Connection) -> str:
    stat = path.stat()
    key = (valid_name(str(path)), stat.st_size, stat.st_mtime_ns)
    row = store.execute("select sha256 from hashes where path = ? and size = ? and mtime = ?", key).fetchone()
    if row and re.fullmatch("[0-9a-f]{64}", str(row[0])):
        return row[0]
    sha256 = hash_file(path)
    store.execute("insert or replace into hashes values (?, ?, ?, ?)", (*key, sha256))
    return sha256
