"""Readers: from the bytes of a file to documents, one reader for each kind of source.

Each is `read(name, stream, options) -> Iterator[Document | Dropped]`; it says what it left out and keeps the
bounds of `options`, whatever the bytes are. Reading order: `options`, `characters`; `text`, `markdown`,
`rst`; `wikitext`, `wikipedia`; `html`, `web`; `books`, `epub`; `code`, `notebook`; `jsonl`, `table`,
`huggingface`.
"""

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import IO

from groundup.data.document import ReadResult
from groundup.data.readers.reader_options import ReaderOptions

Reader = Callable[[str, IO[bytes], ReaderOptions], Iterator[ReadResult]]

READERS = (
    "wikipedia", "books", "web", "code", "text", "markdown", "rst", "html", "jsonl", "table", "huggingface",
)  # fmt: skip
"""Each is a SourceKind, and the module of this folder that reads it."""


def get_reader(kind: str) -> Reader:
    """The reader for a kind of source; its libraries are imported when it is asked for."""
    if kind not in READERS:
        raise ValueError(f"{kind}: no reader; one of {', '.join(READERS)}")
    return import_module(f"groundup.data.readers.{kind}").read
