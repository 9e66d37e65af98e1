"""Plain text reader: one document per file; long files in parts of limited size."""

import codecs
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, islice
from typing import IO

from groundup.data.archive import open_decompressed
from groundup.data.document import Document, DroppedDocument, ReadResult
from groundup.data.readers.encoding import DecodedText, decode_bytes, wide_encoding
from groundup.data.readers.reader_options import MAX_BYTES, ReaderOptions

PART_BYTES = 1 << 18
"""Bytes of a part; a file of less than two parts is one document. (Gopher's limit is 100,000 words.)"""

PART_SEPARATORS = (b"\n\n", b"\r\n\r\n", b"\n", b" ")
"""Preferred ends of a part, best first."""

END_OF_TEXT = re.compile(
    r"(?:(?<=\n)|\A|(?<=[^\s`'\"(\[]))<\|end_?of_?(?:text|document)\|>(?=[\r\n]|\Z|[^\s`'\")\],])", re.IGNORECASE
)
"""The token of published corpora that parts the documents of a file: on a line of its own or joined to the text, not
quoted or within a sentence.
"""

MAX_DECOMPRESSION_RATIO = 200
"""Above MAX_BYTES, a file with a higher compression ratio is dropped as a decompression bomb."""


def read(name: str, stream: IO[bytes], options: ReaderOptions) -> Iterator[ReadResult]:
    """One document, or several called `name#1`, `name#2` ..., or the reason to drop the file."""
    plain, _ = open_decompressed(name, stream)
    delimiter = re.compile(re.escape(options.delimiter)) if options.delimiter else END_OF_TEXT
    parts = _split_at_delimiters(iter_parts(name, stream), delimiter)
    ahead = list(islice(parts, 2))
    for number, part in enumerate(chain(ahead, parts), start=1):
        id = f"{plain}#{number}" if len(ahead) > 1 else plain
        yield part if isinstance(part, DroppedDocument) else Document(part.text, id, part.encoding)


def _split_at_delimiters(
    parts: Iterator[DecodedText | DroppedDocument], delimiter: re.Pattern[str]
) -> Iterator[DecodedText | DroppedDocument]:
    """The texts between delimiters; parts of a file without one as they are."""
    rest: DecodedText | None = None  # from the last delimiter on
    for part in parts:
        if isinstance(part, DroppedDocument):
            yield part
            continue
        if rest is None and delimiter is END_OF_TEXT and "<|" not in part.text:
            yield part  # the search would take most of the reader's time
            continue
        *texts, last = delimiter.split(rest.text + part.text if rest else part.text)
        if rest is None and not texts:
            yield part
            continue
        yield from (replace(part, text=text) for text in texts if text.strip())
        rest = replace(part, text=last)
        if len(last) > 2 * PART_BYTES:
            yield rest
            rest = replace(part, text="")
    if rest is not None and rest.text.strip():
        yield rest


def split_document(name: str, text: str) -> Iterator[Document]:
    """A text as one document, or a long one as several `name#1`, `name#2` ... that end between paragraphs."""
    parts = [part.decode() for part in _split_parts(iter([text.encode("utf-8", "replace")]))]
    for number, part in enumerate(parts, start=1):
        yield Document(part.strip("\n"), f"{name}#{number}" if len(parts) > 1 else name)


def markup_reader(to_text: Callable[[str], str]) -> Callable[[str, IO[bytes], ReaderOptions], Iterator[ReadResult]]:
    """The `read` of a markup language in text files, which `to_text` turns into plain text."""

    def read_markup(name: str, stream: IO[bytes], options: ReaderOptions) -> Iterator[ReadResult]:
        for result in read(name, stream, options):
            yield result if isinstance(result, DroppedDocument) else replace(result, text=to_text(result.text))

    return read_markup


def iter_parts(name: str, stream: IO[bytes]) -> Iterator[DecodedText | DroppedDocument]:
    """The text of a file in parts that end between paragraphs; at most three in memory."""
    plain, opened = open_decompressed(name, stream)
    size, charset = 0, None
    for part in _split_parts(_chunks(opened)):
        size += len(part)
        if b"\0" in part:
            yield DroppedDocument("not_text", plain)
            return
        if opened is not stream and size > max(MAX_BYTES, MAX_DECOMPRESSION_RATIO * stream.tell()):
            yield DroppedDocument("too_large", plain)
            return
        decoded = decode_bytes(part, charset)
        if not decoded.encoding.startswith("utf-8"):
            charset = decoded.encoding.partition(",")[0]  # of the file: one part may not tell
        yield decoded


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    """The bytes of a file; UTF-16 and UTF-32 as UTF-8."""
    chunks = iter(lambda: stream.read(PART_BYTES), b"")
    first = next(chunks, b"")
    if (wide := wide_encoding(first)) is None:
        yield from chain([first], chunks)
        return
    decoder = codecs.getincrementaldecoder(wide)("replace")
    for chunk in chain([first], chunks):
        yield decoder.decode(chunk).encode()
    yield decoder.decode(b"", final=True).encode()


def _split_parts(chunks: Iterator[bytes]) -> Iterator[bytes]:
    buffer = b""
    for chunk in chunks:
        buffer += chunk
        while len(buffer) >= 2 * PART_BYTES:
            end = _split_position(buffer)
            yield buffer[:end]
            buffer = buffer[end:]
    yield buffer


def _split_position(data: bytes) -> int:
    """End of the first part: behind the last separator, else between two characters."""
    for separator in PART_SEPARATORS:
        if (start := data.rfind(separator, PART_BYTES // 2, PART_BYTES)) >= 0:
            return start + len(separator)
    return next((end for end in range(PART_BYTES, PART_BYTES - 4, -1) if data[end] & 0xC0 != 0x80), PART_BYTES)
