"""The members of an archive, read where they are: nothing is unpacked, so no name in it can lead anywhere."""

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
"""How many times its size compressed text unpacks to, about."""
MAX_HEADER_BYTES = 1 << 20
"""Bytes of a name or of other facts on a tar's member; a header that claims more is built to fill the memory."""


@dataclass
class ArchiveMember:
    """One file, alone or inside an archive. `stream` is good until the next member is asked for."""

    name: str
    size: int
    stream: IO[bytes]


def is_archive(name: str) -> bool:
    """By its name: content is only trusted once it is read."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def iter_members(
    path: Path, pattern: str | None = None, *, strip_top: bool = False, unsafe_names: list[str] | None = None
) -> Iterator[ArchiveMember]:
    """The regular files of an archive whose names match, in the archive's own order.

    `strip_top` takes the one top folder off the names that source archives wrap everything in. Links and
    devices are no files; names that climb out ("../") are added to `refused`. Raises UserError when the archive
    is broken.
    """
    wanted = compile_glob(pattern) if pattern else None
    try:
        for name, size, stream in (
            _iter_zip(path) if path.name.lower().endswith(ZIP_SUFFIXES) else _iter_tar(path)
        ):
            parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
            if not parts or ".." in parts or name.startswith("/"):
                if unsafe_names is not None:
                    unsafe_names.append(name)
                continue
            plain = "/".join(parts[1:] if strip_top and len(parts) > 1 else parts)
            if wanted is None or wanted.match(plain):
                with stream() as opened:
                    yield ArchiveMember(plain, size, opened)
    except Exception as error:  # of what is cut off, the standard library says TypeError as well
        raise UserError(
            f"{path.name}: not a readable archive: {error}", hint="remove it and fetch it again"
        ) from None


def estimate_text_bytes(name: str, size: int) -> int:
    """About how many bytes of text a file holds."""
    return size * TYPICAL_COMPRESSION if name.lower().endswith(COMPRESSED_SUFFIXES) else size


def compile_glob(pattern: str) -> re.Pattern[str]:
    """A glob over member names: `*` stays within a folder, `**` goes through folders."""
    from fsspec.utils import glob_translate

    return re.compile(glob_translate(pattern.removeprefix("./")))


def open_decompressed(name: str, stream: IO[bytes]) -> tuple[str, IO[bytes]]:
    """The name without its compression suffix, and a stream of what was compressed; both as they are without
    one.
    """
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
    """May one go back in this stream? Members of a tar that is read front to back do not even know the
    question.
    """
    try:
        return stream.seekable()
    except AttributeError:
        return False


def _iter_zip(path: Path) -> Iterator[tuple[str, int, Callable[[], IO[bytes]]]]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                yield info.filename, info.file_size, lambda info=info: archive.open(info)


def _iter_tar(path: Path) -> Iterator[tuple[str, int, Callable[[], IO[bytes]]]]:
    with tarfile.open(
        path, "r|*", tarinfo=_CheckedTarInfo
    ) as archive:  # one pass from front to back: no seeking in compressed data
        for info in archive:
            if info.isreg():
                yield info.name, info.size, lambda info=info: archive.extractfile(info)  # type: ignore[misc,return-value]


class _CheckedTarInfo(tarfile.TarInfo):
    """A header as the standard library reads it, but one that is damaged or built to hurt ends the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_CheckedTarInfo":
        try:
            info = super().frombuf(buf, encoding, errors)
        except tarfile.InvalidHeaderError as error:  # pyright: ignore[reportAttributeAccessIssue]
            # it would be taken for the end of the archive
            raise tarfile.ReadError(f"damaged header: {error}") from None
        if info.type not in tarfile.REGULAR_TYPES and info.size > MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {info.size} bytes")
        return info
