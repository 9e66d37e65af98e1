"""Plain text files, each one document."""

import codecs
from collections.abc import Iterator
from typing import IO

from groundup.data.archive import decompressed
from groundup.data.document import Document, Dropped, Read

MAX_BYTES = 64 << 20
"""A single document beyond this is no text that anyone wrote; it is dropped as "too_large", unread."""

BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read(name: str, stream: IO[bytes]) -> Iterator[Read]:
    """One document, or the reason why the file is none."""
    name, stream = decompressed(name, stream)
    data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        yield Dropped("too_large", name)
    elif b"\0" in data[:8192] and not data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        yield Dropped("not_text", name)
    else:
        yield Document(decode(data), name)


def decode(data: bytes) -> str:
    """Bytes to text: the byte order mark decides, else UTF-8, else Windows-1252, which old text files are in."""
    for mark, encoding in BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return data.decode(encoding, "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")
