"""Lines of a text file in any character set, with bounded memory; for files that are more than their text."""

import codecs
import io
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import IO, Any

from groundup.data.readers.encoding import decode_bytes, wide_encoding

HEAD_BYTES = 1 << 16


class ChunkStream(io.RawIOBase):
    """Stream of the bytes that an iterator gives; no chunk is empty."""

    def __init__(self, chunks: Iterable[bytes]):
        self._chunks, self._rest = iter(chunks), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._rest or next(self._chunks, b"")
        size = min(len(data), len(buffer))
        buffer[:size], self._rest = data[:size], data[size:]
        return size


class TextLines:
    """Lines and chunks of a file.

    Attributes:
        head: the first characters.
        encoding: character set so far, see DecodedText.
    """

    def __init__(self, stream: IO[bytes], limit: int):
        head = stream.read(HEAD_BYTES)
        chunks = chain([head] if head else [], iter(lambda: stream.read(HEAD_BYTES), b""))
        if (wide := wide_encoding(head)) is not None:
            chunks = filter(None, codecs.iterdecode(chunks, wide, "replace"))
            chunks = map(str.encode, chunks)
            head = head[: len(head) // 4 * 4]
        decoded = decode_bytes(head[: head.rfind(b"\n") + 1 or None] if len(head) == HEAD_BYTES else head)
        self.head, self.encoding, self.limit = decoded.text, decoded.encoding, limit
        self._stream = io.BufferedReader(ChunkStream(chunks), HEAD_BYTES)
        if head.startswith(codecs.BOM_UTF8):
            self._stream.read(len(codecs.BOM_UTF8))

    @property
    def charset(self) -> str | None:
        """Character set of what is not valid UTF-8, if known."""
        return None if self.encoding.startswith("utf-") else self.encoding.partition(",")[0]

    def readline(self) -> str | None:
        """The next line with its end, "" at the end of the file; None for the beginning of one beyond the limit."""
        line = self._stream.readline(self.limit + 1)
        return None if len(line) > self.limit else self._decode(line)

    def skip_line(self, limit: int) -> bool:
        """Read to the end of a line; false if that is more than `limit` bytes (a decompression bomb)."""
        for _ in range(limit >> 20):
            part = self._stream.readline(1 << 20)
            if not part or part.endswith(b"\n"):
                return True
        return False

    def chunks(self) -> Iterator[str]:
        """The text of the rest of the file."""
        data = iter(lambda: self._stream.read(HEAD_BYTES), b"")
        return codecs.iterdecode(data, self.charset or "utf-8", "replace")

    def _decode(self, line: bytes) -> str:
        try:
            return line.decode()
        except UnicodeDecodeError:
            decoded = decode_bytes(line, self.charset)
            if self.charset is None:
                self.encoding = decoded.encoding
            return decoded.text
