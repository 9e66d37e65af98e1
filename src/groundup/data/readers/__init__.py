"""Readers: from the bytes of a file to documents, one reader for each kind of source.

Each is `read(name, stream) -> Iterator[Document | Dropped]`: it never raises for bad content, and says what it left out.
"""

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import IO

from groundup.data.document import Read

Reader = Callable[[str, IO[bytes]], Iterator[Read]]

READERS = {
    "wikipedia": "wikipedia",
    "books": "books",
    "web": "web",
    "code": "code",
    "text": "text",
    "rst": "markup",
    "jsonl": "jsonl",
}
"""SourceKind -> the module of this folder that reads it."""


def reader(kind: str) -> Reader:
    """The reader for a kind of source."""
    return import_module(f"groundup.data.readers.{READERS[kind]}").read
