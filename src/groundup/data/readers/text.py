"""Plain text files, each one document."""

import codecs
from collections.abc import Iterator
from typing import IO

from groundup.data.archive import decompressed
from groundup.data.document import Document, Dropped, Read
from groundup.data.readers.characters import decode
from groundup.data.readers.options import MAX_BYTES, Options, read_bounded

UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read(name: str, stream: IO[bytes], options: Options) -> Iterator[Read]:
    """One document, or the reason why the file is none."""
    name, stream = decompressed(name, stream)
    data = read_bounded(stream, MAX_BYTES)
    if data is None:
        yield Dropped("too_large", name)
    elif b"\0" in data and not data.startswith(UTF_16):
        yield Dropped("not_text", name)
    else:
        yield Document(decode(data), name)
