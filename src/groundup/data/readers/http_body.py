"""HTTP body decoding: chunked transfer and content codings, with a size limit.

Some crawlers store decoded bodies with the original headers, so headers are hints and the bytes decide. Source:
RFC 9112, section 7.1 (chunked); RFC 9110, section 8.4 (content codings); RFC 8878 (zstd).
"""

import io
import re
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

CHUNK_HEADER = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]{0,200})?\r\n")
DEFLATE_CODINGS = ("gzip", "x-gzip", "deflate")
GZIP_MAGIC, ZSTD_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
CONTROL = bytes(set(range(32)) - set(b"\t\n\r\f"))
READ_BYTES = 1 << 16
MAX_CODINGS = 4


def decode_http_body(data: bytes, transfer: str, content: str, limit: int) -> bytes | None:
    """The decoded body, or None if larger than `limit` bytes. Damaged data gives the part before the damage."""
    if "chunked" in transfer.lower() and CHUNK_HEADER.match(data):
        data = dechunk(data)
    codings = [coding.strip() for coding in content.lower().split(",")][:MAX_CODINGS]
    body: bytes | None = data
    for coding in reversed(codings):  # listed in the order of application
        if body is None or body[:1] == b"<":
            break
        if coding in DEFLATE_CODINGS:
            body = inflate(body, limit)
        elif coding == "br":
            body = decompress_brotli(body, limit)
        elif coding == "zstd":
            body = decompress_zstd(body, limit)
    return body


def dechunk(data: bytes) -> bytes:
    """Body of a chunked message, up to the first invalid chunk."""
    parts, position = [], 0
    while head := CHUNK_HEADER.match(data, position):
        size = int(head.group(1), 16)
        if size == 0:
            break
        parts.append(data[head.end() : head.end() + size])
        position = head.end() + size + 2
    return b"".join(parts)


def inflate(data: bytes, limit: int) -> bytes | None:
    """Decompressed gzip of one or more members, zlib or raw deflate (servers send all three); None beyond `limit` bytes.
    Data in none of them as it is.
    """
    for wbits in (47, -15):
        try:
            out = _decompress(partial(zlib.decompressobj, wbits), data, limit)
        except zlib.error:
            continue
        return out
    return data


def _decompress(make: Callable[[], Any], data: bytes, limit: int) -> bytes | None:
    """All members, up to damage; raises zlib.error for damage in the first bytes."""
    parts: list[bytes] = []
    size = 0
    while data:
        decompressor = make()
        try:
            out = decompressor.decompress(data, limit + 1 - size)
        except zlib.error:
            if not parts:
                raise
            break
        parts.append(out)
        size += len(out)
        if size > limit:
            return None
        data = decompressor.unused_data
        if not decompressor.eof or not data.startswith(GZIP_MAGIC):
            break
    return b"".join(parts)


def decompress_brotli(data: bytes, limit: int) -> bytes | None:
    """Decompressed Brotli up to damage, or the data if they are not Brotli; None beyond `limit` bytes."""
    import brotli

    decompressor = brotli.Decompressor()
    parts: list[bytes] = []
    size = position = 0
    try:
        while position < len(data) or not decompressor.can_accept_more_data():
            part = b""
            if decompressor.can_accept_more_data():
                part, position = data[position : position + READ_BYTES], position + READ_BYTES
            parts.append(decompressor.process(part, output_buffer_limit=READ_BYTES))
            size += len(parts[-1])
            if size > limit:
                return None
        while rest := decompressor.process(b"", output_buffer_limit=READ_BYTES):
            parts.append(rest)
    except brotli.error:
        pass
    body = b"".join(parts)
    return data if not body or (not decompressor.is_finished() and _is_plain(data)) else body[:limit]


def decompress_zstd(data: bytes, limit: int) -> bytes | None:
    """Decompressed zstd up to damage, or the data if they are not zstd; None beyond `limit` bytes."""
    import pyarrow

    if not data.startswith(ZSTD_MAGIC):
        return data
    parts: list[bytes] = []
    size = 0
    try:
        stream = pyarrow.CompressedInputStream(io.BytesIO(data), "zstd")
        while part := stream.read(READ_BYTES):
            size += len(part)
            if size > limit:
                return None
            parts.append(part)
    except OSError:
        pass
    return b"".join(parts)


def _is_plain(data: bytes) -> bool:
    """Whether the bytes are text: compressed data have control characters among the first."""
    head = data[:256]
    return len(head.translate(None, CONTROL)) == len(head)
