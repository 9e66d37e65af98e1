"""HTTP body decoding: chunked transfer and content codings, with a size limit.

Some crawlers store decoded bodies with the original headers, so headers are hints and the bytes decide. Source:
RFC 9112, section 7.1 (chunked); RFC 9110, section 8.4 (content codings); RFC 8878 (zstd).
"""

import io
import re
import zlib

CHUNK_HEADER = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]{0,200})?\r\n")
DEFLATE_CODINGS = ("gzip", "x-gzip", "deflate")
ARROW_CODECS = {"br": "brotli", "zstd": "zstd"}
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
        elif coding in ARROW_CODECS:
            body = decompress_with_arrow(body, ARROW_CODECS[coding], limit)
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
    """Decompressed gzip, zlib or raw deflate (servers send all three); None beyond `limit` bytes."""
    for wbits in (47, -15):
        decompressor = zlib.decompressobj(wbits)
        try:
            out = decompressor.decompress(data, limit + 1)
        except zlib.error:
            continue
        return None if len(out) > limit else out
    return data


def decompress_with_arrow(data: bytes, codec: str, limit: int) -> bytes | None:
    """Decompressed Brotli or zstd; None beyond `limit` bytes."""
    import pyarrow

    parts, size = [], 0
    try:
        stream = pyarrow.CompressedInputStream(io.BytesIO(data), codec)
        while part := stream.read(READ_BYTES):
            size += len(part)
            if size > limit:
                return None
            parts.append(part)
    except OSError:
        pass
    return b"".join(parts)
