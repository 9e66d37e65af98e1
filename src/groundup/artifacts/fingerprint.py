"""SHA-256 fingerprints of values (by canonical JSON) and of files."""

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

MAX_HASH_THREADS = min(8, os.cpu_count() or 1)


def canonical_json(value: Any) -> str:
    """JSON with one form per value: sorted keys, no spaces, no NaN. Raises ValueError on NaN or infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprint(value: Any) -> str:
    """SHA-256 of the canonical JSON of `value`, as 64 hex digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits, in constant memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(paths: Iterable[Path]) -> list[str]:
    """SHA-256 of each file, in order, several at a time."""
    with ThreadPoolExecutor(MAX_HASH_THREADS) as threads:
        return list(threads.map(hash_file, paths))
