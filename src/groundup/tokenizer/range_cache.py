"""Local cache of a remote file, downloaded by byte ranges on demand, each range once.

The cache is a sparse file of the remote size, and a file with one byte per chunk that is 1 once the chunk is downloaded.
Processes may share it: two that download the same chunk write the same bytes.
"""

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from groundup.artifacts.errors import UserError

CHUNK_BYTES = 1 << 18
"""Download granularity. Sequences are read at random positions, so large chunks waste most of their bytes; smaller ones
are no faster."""

MAX_REQUEST_BYTES = 1 << 26
"""Bytes of one request at most."""

MAX_ATTEMPTS = 4


def is_remote(path: object) -> bool:
    """Is this a URL such as s3://bucket/folder, not a path?"""
    return "://" in str(path)


def open_filesystem(url: str) -> tuple[Any, str]:
    """The fsspec filesystem of a URL, and the path in it. Raises UserError when fsspec does not support it."""
    try:
        import fsspec

        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UserError(
            f"{url}: cannot be opened: {error}", hint="pip install 'groundup[data]', and what fsspec's scheme needs"
        ) from None


class RangeCachedFile:
    """A remote file of known size, cached in `local`.

    >>> file = RangeCachedFile("s3://corpus/tokens/train.bin", cache / "train.bin", size)
    >>> file.fetch([(0, 4096)])
    >>> np.memmap(cache / "train.bin", mode="r")[:4096]

    Raises UserError when the remote file does not exist or has another size.
    """

    def __init__(self, url: str, local: Path, size: int):
        self.url, self.local, self.size = url, local, size
        local.parent.mkdir(parents=True, exist_ok=True)
        num_chunks = -(-size // CHUNK_BYTES)
        if _size(local) != size or _size(_presence_file(local)) != num_chunks:
            self._check_remote_size()
            with local.open("ab") as file:
                file.truncate(size)
            _presence_file(local).touch()
            with _presence_file(local).open("r+b") as file:
                file.truncate(num_chunks)
                # No hole: writing to the map on a full disk would kill the process (SIGBUS).
                file.write(bytes(num_chunks))
        self._present = np.memmap(_presence_file(local), np.uint8, "r+") if size else np.empty(0, np.uint8)

    def fetch(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Download the missing parts of these ranges [begin, end) in bytes, in one batch of requests."""
        missing = {
            chunk
            for begin, end in ranges
            for chunk in range(begin // CHUNK_BYTES, -(-end // CHUNK_BYTES))
            if not self._present[chunk]
        }
        spans: list[list[int]] = []
        for chunk in sorted(missing):
            begin, end = chunk * CHUNK_BYTES, min((chunk + 1) * CHUNK_BYTES, self.size)
            if spans and spans[-1][1] == begin and end - spans[-1][0] <= MAX_REQUEST_BYTES:
                spans[-1][1] = end
            else:
                spans.append([begin, end])
        for first in range(0, len(spans), 64):
            self._fetch(spans[first : first + 64])

    def _fetch(self, spans: list[list[int]]) -> None:
        begins, ends = [begin for begin, _ in spans], [end for _, end in spans]
        contents = _with_retries(lambda: self._read(begins, ends), self.url)
        target = os.open(self.local, os.O_WRONLY)
        try:
            for begin, data in zip(begins, contents, strict=True):
                os.pwrite(target, data, begin)
            os.fdatasync(target)  # before the chunks are marked as present
        finally:
            os.close(target)
        for begin, end in spans:
            self._present[begin // CHUNK_BYTES : -(-end // CHUNK_BYTES)] = 1

    def _read(self, begins: list[int], ends: list[int]) -> list[bytes]:
        store, path = open_filesystem(self.url)
        contents = store.cat_ranges([path] * len(begins), begins, ends, on_error="raise")
        for begin, end, data in zip(begins, ends, contents, strict=True):
            if len(data) != end - begin:
                raise UserError(
                    f"{self.url}: {len(data)} bytes for the range {begin}-{end}, expected {end - begin}",
                    hint="the file is truncated, or the server does not support range requests",
                )
        return contents

    def _check_remote_size(self) -> None:
        store, path = open_filesystem(self.url)
        remote_size = _with_retries(lambda: store.info(path)["size"], self.url)
        if remote_size != self.size:
            raise UserError(
                f"{self.url}: {remote_size} bytes, expected {self.size} by the sidecar",
                hint="copy all four files of the shard",
            )


def read_remote_file(url: str) -> bytes:
    """A small remote file. Raises UserError when it cannot be read."""
    store, path = open_filesystem(url)
    return _with_retries(lambda: store.cat_file(path), url)


def _with_retries(read: Callable[[], Any], url: str) -> Any:
    """Retry with exponential backoff, for temporary failures of the store."""
    attempt = 0
    while True:
        try:
            return read()
        except FileNotFoundError:
            raise UserError(f"{url}: no such file", hint="check the URL") from None
        except UserError:
            raise
        except Exception as error:  # each store raises its own exceptions
            attempt += 1
            if attempt == MAX_ATTEMPTS:
                raise UserError(
                    f"{url}: cannot be read: {error or type(error).__name__}",
                    hint="check the network and the credentials; the run resumes from its last checkpoint",
                ) from None
        time.sleep(2 ** (attempt - 1))


def _presence_file(local: Path) -> Path:
    return local.with_name(local.name + ".present")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1
