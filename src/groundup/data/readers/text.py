"""Plain text files, each one document; a long one in parts, so that no file is too large to be read."""

import codecs
from collections.abc import Iterator
from itertools import chain, islice
from typing import IO

from groundup.data.archive import open_decompressed
from groundup.data.document import Document, DroppedDocument, ReadResult
from groundup.data.readers.encoding import decode_text
from groundup.data.readers.reader_options import MAX_BYTES, ReaderOptions

UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

PART_BYTES = 1 << 18
"""Bytes of a part; a file of less than two is one document. (Gopher's rules take no text of 100,000 words.)"""

PART_SEPARATORS = (b"\n\n", b"\r\n\r\n", b"\n", b" ")
"""Where a part may end, best first."""

MAX_DECOMPRESSION_RATIO = 200
"""Times its own size that a compressed file may unpack to, beyond MAX_BYTES: what people wrote never does."""


def read(name: str, stream: IO[bytes], options: ReaderOptions) -> Iterator[ReadResult]:
    """One document, or several called `name#1`, `name#2` ..., or the reason why the file is none."""
    plain, _ = open_decompressed(name, stream)
    parts = iter_parts(name, stream)
    ahead = list(islice(parts, 2))
    for number, part in enumerate(chain(ahead, parts), start=1):
        where = f"{plain}#{number}" if len(ahead) > 1 else plain
        yield part if isinstance(part, DroppedDocument) else Document(part, where)


def iter_parts(name: str, stream: IO[bytes]) -> Iterator[str | DroppedDocument]:
    """The text of a file in parts that end between paragraphs; holds no more than three of them."""
    plain, opened = open_decompressed(name, stream)
    size = 0
    for part in _split_parts(_chunks(opened)):
        size += len(part)
        if b"\0" in part:
            yield DroppedDocument("not_text", plain)
            return
        if opened is not stream and size > max(MAX_BYTES, MAX_DECOMPRESSION_RATIO * stream.tell()):
            yield DroppedDocument("too_large", plain)
            return
        yield decode_text(part)


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    """The bytes of a file; those of UTF-16 as UTF-8, in which a line's end is one byte."""
    chunks = iter(lambda: stream.read(PART_BYTES), b"")
    first = next(chunks, b"")
    if not first.startswith(UTF_16):
        yield from chain([first], chunks)
        return
    decoder = codecs.getincrementaldecoder("utf-16")("replace")
    for chunk in chain([first], chunks):
        yield decoder.decode(chunk).encode()
    yield decoder.decode(b"", final=True).encode()


def _split_parts(chunks: Iterator[bytes]) -> Iterator[bytes]:
    held = b""
    for chunk in chunks:
        held += chunk
        while len(held) >= 2 * PART_BYTES:
            place = _split_position(held)
            yield held[:place]
            held = held[place:]
    yield held


def _split_position(data: bytes) -> int:
    """Where the first part of the data ends: behind the last good place, else between two characters."""
    for mark in PART_SEPARATORS:
        if (place := data.rfind(mark, PART_BYTES // 2, PART_BYTES)) >= 0:
            return place + len(mark)
    return next(
        (place for place in range(PART_BYTES, PART_BYTES - 4, -1) if data[place] & 0xC0 != 0x80), PART_BYTES
    )
