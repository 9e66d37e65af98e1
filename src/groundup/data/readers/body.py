"""The body of an HTTP message as it is meant: chunks put together, compression undone, within bounds.

Crawlers disagree on what they store: some undo the coding and leave the header that announces it. So a header
is only a hint, and the bytes decide. Source: RFC 9112, section 7.1 (chunked); RFC 9110, section 8.4 (content
codings).
"""

import re
import zlib

CHUNK_HEAD = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]{0,200})?\r\n")


def decode_body(data: bytes, transfer: str, content: str, limit: int) -> bytes | None:
    """The body, or None when it would be larger than `limit` bytes. A coding that is broken gives what came
    before the break.
    """
    if "chunked" in transfer.lower() and CHUNK_HEAD.match(data):
        data = join_chunks(data)
    coding = content.lower().strip()
    if coding in ("gzip", "x-gzip", "deflate") and data[:1] != b"<":
        return inflate(data, limit)
    if coding == "br" and data[:1] != b"<":
        return unbrotli(data, limit)
    return data


def join_chunks(data: bytes) -> bytes:
    """Chunks to one body; what follows a broken chunk is left out."""
    parts, position = [], 0
    while head := CHUNK_HEAD.match(data, position):
        size = int(head.group(1), 16)
        if size == 0:
            break
        parts.append(data[head.end() : head.end() + size])
        position = head.end() + size + 2
    return b"".join(parts)


def inflate(data: bytes, limit: int) -> bytes | None:
    """gzip, zlib or bare deflate (servers send all three), never more than `limit` bytes of it."""
    for wbits in (47, -15):
        engine = zlib.decompressobj(wbits)
        try:
            out = engine.decompress(data, limit + 1)
        except zlib.error:
            continue
        return None if len(out) > limit else out
    return data


def unbrotli(data: bytes, limit: int) -> bytes | None:
    """Brotli, where its package is installed; it comes with the usual HTTP clients. Empty where it is not, or
    data is broken.
    """
    try:
        import brotli
    except ImportError:
        return b""
    engine, parts, size = brotli.Decompressor(), [], 0
    try:
        for start in range(0, len(data), 1 << 12):  # small steps: one step's output is bounded by the window
            part = engine.process(data[start : start + (1 << 12)])
            size += len(part)
            if size > limit:
                return None
            parts.append(part)
    except brotli.error:
        pass
    return b"".join(parts)
