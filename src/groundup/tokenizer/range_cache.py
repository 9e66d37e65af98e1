"""A file on an object store, of which only the ranges that are asked for are fetched, each once.

Beside each other in the cache: a sparse file of the remote one's size, and a file with one byte for each block of it
that says whether the block is there. Processes may share them: two that fetch the same block write the same bytes.
"""

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from groundup.artifacts.errors import UserError

CHUNK_BYTES = 1 << 18
"""Bytes fetched at least. Sequences are drawn from anywhere, so most first touches of a block want little of it; below
this size a store answers no sooner."""

MAX_REQUEST_BYTES = 1 << 26
"""Bytes fetched in one request at most."""

MAX_ATTEMPTS = 4


def is_remote(path: object) -> bool:
    """Is this an address such as s3://bucket/folder, rather than a path?"""
    return "://" in str(path)


def open_filesystem(url: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it. Raises UserError where fsspec does not know it."""
    try:
        import fsspec

        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UserError(
            f"{url}: cannot be opened: {error}",
            hint="pip install 'groundup[data]', and what fsspec's scheme needs",
        ) from None


class RangeCachedFile:
    """A remote file of a known size, kept in `local` as far as it was read.

    >>> file = RangeCachedFile("s3://corpus/tokens/train.bin", cache / "train.bin", size)
    >>> file.fetch([(0, 4096)])
    >>> np.memmap(cache / "train.bin", mode="r")[:4096]

    Raises UserError when the store has no such file, or one of another size.
    """

    def __init__(self, url: str, local: Path, size: int):
        self.url, self.local, self.size = url, local, size
        local.parent.mkdir(parents=True, exist_ok=True)
        blocks = -(-size // CHUNK_BYTES)
        if _size(local) != size or _size(_presence_file(local)) != blocks:
            self._check_remote_size()
            for path, length in ((local, size), (_presence_file(local), blocks)):
                with path.open("ab") as file:
                    file.truncate(length)
        self._present = np.memmap(_presence_file(local), np.uint8, "r+") if size else np.empty(0, np.uint8)

    def fetch(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Make sure that these ranges [begin, end) in bytes are in the local file; what is missing comes in one go."""
        missing = {
            block
            for begin, end in ranges
            for block in range(begin // CHUNK_BYTES, -(-end // CHUNK_BYTES))
            if not self._present[block]
        }
        spans: list[list[int]] = []
        for block in sorted(missing):
            begin, end = block * CHUNK_BYTES, min((block + 1) * CHUNK_BYTES, self.size)
            if spans and spans[-1][1] == begin and end - spans[-1][0] <= MAX_REQUEST_BYTES:
                spans[-1][1] = end
            else:
                spans.append([begin, end])
        for first in range(0, len(spans), 64):
            self._fetch(spans[first : first + 64])

    def _fetch(self, spans: list[list[int]]) -> None:
        begins, ends = [begin for begin, _ in spans], [end for _, end in spans]
        parts = _with_retries(lambda: self._read(begins, ends), self.url)
        target = os.open(self.local, os.O_WRONLY)
        try:
            for begin, data in zip(begins, parts, strict=True):
                os.pwrite(target, data, begin)
            os.fdatasync(target)  # a block is said to be there only when it outlives a power cut
        finally:
            os.close(target)
        for begin, end in spans:
            self._present[begin // CHUNK_BYTES : -(-end // CHUNK_BYTES)] = 1

    def _read(self, begins: list[int], ends: list[int]) -> list[bytes]:
        store, path = open_filesystem(self.url)
        parts = store.cat_ranges([path] * len(begins), begins, ends, on_error="raise")
        for begin, end, data in zip(begins, ends, parts, strict=True):
            if len(data) != end - begin:
                raise UserError(
                    f"{self.url}: {len(data)} bytes for the range {begin}-{end}, expected {end - begin}",
                    hint="the file is cut off, or its server does not know ranges",
                )
        return parts

    def _check_remote_size(self) -> None:
        store, path = open_filesystem(self.url)
        found = _with_retries(lambda: store.info(path)["size"], self.url)
        if found != self.size:
            raise UserError(
                f"{self.url}: {found} bytes, but its sidecar asks for {self.size} bytes",
                hint="the files of a shard belong together: copy all of them",
            )


def read_remote_file(url: str) -> bytes:
    """A small remote file. Raises UserError when it cannot be read."""
    store, path = open_filesystem(url)
    return _with_retries(lambda: store.cat_file(path), url)


def _with_retries(read: Callable[[], Any], url: str) -> Any:
    """A long run outlives a store that is away for some seconds."""
    attempt = 0
    while True:
        try:
            return read()
        except FileNotFoundError:
            raise UserError(f"{url}: no such file", hint="check the address") from None
        except UserError:
            raise
        except Exception as error:  # each store has exceptions of its own
            attempt += 1
            if attempt == MAX_ATTEMPTS:
                raise UserError(
                    f"{url}: cannot be read: {error or type(error).__name__}",
                    hint="check the network and your access; the run continues from its last checkpoint",
                ) from None
        time.sleep(2 ** (attempt - 1))


def _presence_file(local: Path) -> Path:
    return local.with_name(local.name + ".present")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1
