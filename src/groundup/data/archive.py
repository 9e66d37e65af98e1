"""Archives: read members of zip and tar files in place, without unpacking."""

import bz2
import gzip
import io
import lzma
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from groundup.artifacts.errors import UserError

ZIP_SUFFIXES = (".zip", ".whl")
ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", *ZIP_SUFFIXES)
COMPRESSED_SUFFIXES = (".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".parquet", *ZIP_SUFFIXES)
TYPICAL_COMPRESSION = 4
"""Typical compression ratio of text."""
GLOB_HINT = "** stands alone between slashes: **/*.txt names files in all folders"
MAX_HEADER_BYTES = 1 << 20
"""Limit for extended headers of a tar member; a larger one is an attack on memory."""


@dataclass
class ArchiveMember:
    """One file, standalone or in an archive. `stream` is valid until the next member is read."""

    name: str
    size: int
    stream: IO[bytes]


def is_archive(name: str) -> bool:
    """Whether the file name has an archive suffix."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def iter_members(
    path: Path | IO[bytes],
    pattern: str | None = None,
    *,
    strip_top: bool = False,
    unsafe_names: list[str] | None = None,
) -> Iterator[ArchiveMember]:
    """Regular files of an archive whose names match `pattern`, in archive order.

    `strip_top` removes the top folder of source archives from the names. Links and devices are skipped; names that
    leave the archive ("../") are appended to `unsafe_names`. Raises UserError for a broken archive. Of an archive in
    memory, `path` is the open file.
    """
    matcher = compile_glob(pattern) if pattern else None
    if isinstance(path, Path):
        is_zip = path.name.lower().endswith(ZIP_SUFFIXES)
    else:
        is_zip = zipfile.is_zipfile(path)
        path.seek(0)
    iter_files = _iter_zip if is_zip else _iter_tar
    try:
        for name, size, stream in iter_files(path):
            parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
            if not parts or ".." in parts or name.startswith("/"):
                if unsafe_names is not None:
                    unsafe_names.append(name)
                continue
            member = valid_name("/".join(parts[1:] if strip_top and len(parts) > 1 else parts))
            if matcher is None or matcher.match(member):
                with stream() as opened:
                    yield ArchiveMember(member, size, opened)
    except Exception as error:  # truncated files raise many types, such as TypeError
        name = path.name if isinstance(path, Path) else "archive within an archive"
        raise UserError(f"{name}: not a readable archive: {error}", hint="remove it and fetch it again") from None


def valid_name(name: str) -> str:
    r"""A file name as text: bytes that are not UTF-8, which Python reads as lone surrogates, become escapes.

    >>> valid_name("caf\udce9.txt")
    'caf\\xe9.txt'
    """
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") if not name.isascii() else name


def estimate_text_bytes(name: str, size: int) -> int:
    """Estimated bytes of text in a file."""
    return size * TYPICAL_COMPRESSION if name.lower().endswith(COMPRESSED_SUFFIXES) else size


def compile_glob(pattern: str) -> re.Pattern[str]:
    """Regular expression of a glob: `*` within a folder, `**` across folders. Raises UserError for another use of `**`."""
    from fsspec.utils import glob_translate

    try:
        return re.compile(glob_translate(pattern.removeprefix("./")))
    except ValueError as error:
        raise UserError(f"{pattern}: {error}", hint=GLOB_HINT) from None


def open_decompressed(name: str, stream: IO[bytes]) -> tuple[str, IO[bytes]]:
    """Name without compression suffix and decompressed stream; both unchanged without such a suffix."""
    stem, dot, suffix = name.rpartition(".")
    opener = DECOMPRESSORS.get(suffix.lower()) if dot else None
    return (stem, opener(stream)) if opener else (name, stream)


def _open_zstd(stream: IO[bytes]) -> IO[bytes]:
    from pyarrow import CompressedInputStream

    return io.BufferedReader(CompressedInputStream(stream, "zstd"), 1 << 16)


DECOMPRESSORS: dict[str, Callable[[Any], Any]] = {
    "gz": lambda stream: gzip.GzipFile(fileobj=stream),
    "bz2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
    "zst": _open_zstd,
}


def is_seekable(stream: IO[bytes]) -> bool:
    """Whether a stream is seekable; members of a sequentially read tar have no `seekable` method."""
    try:
        return stream.seekable()
    except AttributeError:
        return False


def _iter_zip(path: Path | IO[bytes]) -> Iterator[tuple[str, int, Callable[[], IO[bytes]]]]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                yield info.filename, info.file_size, lambda info=info: archive.open(info)


def _iter_tar(path: Path | IO[bytes]) -> Iterator[tuple[str, int, Callable[[], IO[bytes]]]]:
    place: dict[str, Any] = {"name": path} if isinstance(path, Path) else {"fileobj": path}
    with tarfile.open(**place, mode="r|*", tarinfo=_CheckedTarInfo) as archive:  # "|": no seeking in compressed data
        for info in archive:
            if info.isreg():
                yield info.name, info.size, lambda info=info: archive.extractfile(info)  # type: ignore[misc,return-value]


class _CheckedTarInfo(tarfile.TarInfo):
    """Tar header for which damaged or oversized headers are errors."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_CheckedTarInfo":
        try:
            info = super().frombuf(buf, encoding, errors)
        except tarfile.InvalidHeaderError as error:  # pyright: ignore[reportAttributeAccessIssue]
            # tarfile would treat it as the end of the archive
            raise tarfile.ReadError(f"damaged header: {error}") from None
        if info.type not in tarfile.REGULAR_TYPES and info.size > MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {info.size} bytes")
        return info


class RejoinedStream(io.RawIOBase):
    """The bytes already read of a stream that is not seekable, then its rest."""

    def __init__(self, head: bytes, rest: IO[bytes]):
        self.head, self.rest, self.position = head, rest, 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: Any) -> int:
        data = self.head[: len(buffer)] or self.rest.read(len(buffer))
        self.head = self.head[len(data) :] if self.head else b""
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


def rejoin(head: bytes, stream: IO[bytes]) -> IO[bytes]:
    """The whole stream, whose first bytes `head` were read."""
    if is_seekable(stream):
        stream.seek(0)
        return stream
    return io.BufferedReader(RejoinedStream(head, stream), 1 << 16)
