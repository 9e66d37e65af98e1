"""Plain text files, each one document; a long one in parts, so that no file is too large to be read."""

import codecs
from collections.abc import Iterator
from itertools import chain, islice
from typing import IO

from groundup.data.archive import decompressed
from groundup.data.document import Document, Dropped, Read
from groundup.data.readers.characters import decode
from groundup.data.readers.options import MAX_BYTES, Options

UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

PART = 1 << 18
"""Bytes of a part; a file of less than two is one document. (Gopher's rules take no text of 100,000 words.)"""

BREAKS = (b"\n\n", b"\r\n\r\n", b"\n", b" ")
"""Where a part may end, best first."""

MAX_RATIO = 200
"""Times its own size that a compressed file may unpack to, beyond MAX_BYTES: what people wrote never does."""


def read(name: str, stream: IO[bytes], options: Options) -> Iterator[Read]:
    """One document, or several called `name#1`, `name#2` ..., or the reason why the file is none."""
    plain, _ = decompressed(name, stream)
    parts = texts(name, stream)
    ahead = list(islice(parts, 2))
    for number, part in enumerate(chain(ahead, parts), start=1):
        where = f"{plain}#{number}" if len(ahead) > 1 else plain
        yield part if isinstance(part, Dropped) else Document(part, where)


def texts(name: str, stream: IO[bytes]) -> Iterator[str | Dropped]:
    """The text of a file in parts that end between paragraphs; holds no more than three of them."""
    plain, opened = decompressed(name, stream)
    size = 0
    for part in _parts(_chunks(opened)):
        size += len(part)
        if b"\0" in part:
            yield Dropped("not_text", plain)
            return
        if opened is not stream and size > max(MAX_BYTES, MAX_RATIO * stream.tell()):
            yield Dropped("too_large", plain)
            return
        yield decode(part)


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    """The bytes of a file; those of UTF-16 as UTF-8, in which a line's end is one byte."""
    chunks = iter(lambda: stream.read(PART), b"")
    first = next(chunks, b"")
    if not first.startswith(UTF_16):
        yield from chain([first], chunks)
        return
    decoder = codecs.getincrementaldecoder("utf-16")("replace")
    for chunk in chain([first], chunks):
        yield decoder.decode(chunk).encode()
    yield decoder.decode(b"", final=True).encode()


def _parts(chunks: Iterator[bytes]) -> Iterator[bytes]:
    held = b""
    for chunk in chunks:
        held += chunk
        while len(held) >= 2 * PART:
            place = _break(held)
            yield held[:place]
            held = held[place:]
    yield held


def _break(data: bytes) -> int:
    """Where the first part of the data ends: behind the last good place, else between two characters."""
    for mark in BREAKS:
        if (place := data.rfind(mark, PART // 2, PART)) >= 0:
            return place + len(mark)
    return next((place for place in range(PART, PART - 4, -1) if data[place] & 0xC0 != 0x80), PART)
