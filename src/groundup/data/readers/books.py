"""Books: plain text without the licence that Project Gutenberg wraps around it, in pieces of some chapters;
and EPUB.
"""

import re
from collections.abc import Iterable, Iterator
from typing import IO

from groundup.data.archive import decompressed
from groundup.data.document import Document, Dropped, Read
from groundup.data.readers import epub
from groundup.data.readers import text as plain
from groundup.data.readers.options import Options

START = re.compile(
    r"\*{3}\s*START OF (?:THE|THIS) PROJECT GUTENBERG[^\n*]*\*{3}|^\*END[* ]+THE SMALL PRINT[^\n]*$",
    re.IGNORECASE | re.MULTILINE,
)
END = re.compile(
    r"\*{3}\s*END OF (?:THE|THIS) PROJECT GUTENBERG|^[ \t]*End of (?:the |this )?Project Gutenberg",
    re.IGNORECASE | re.MULTILINE,
)
UNIT = re.compile(
    r"^[ \t]*(?:chapter|book|act|part|canto|volume|scene|sonnet|letter|section)\b[^\n]{0,80}$", re.IGNORECASE
)
OTHER = (".png", ".jpg", ".jpeg", ".gif", ".pdf", ".css", ".svg")
WRAPPING = 60_000
"""The marks stand within so many characters of the file's ends."""

PIECE = 20_000
"""Characters after which a book is cut at the next chapter, and twice that at the next paragraph: a filter or
a deduplication that judges whole books is blunt, and one that judges paragraphs is blind.
"""


def read(name: str, stream: IO[bytes], options: Options) -> Iterator[Read]:
    """The pieces of one book, each a document `name#1`, `name#2` ..."""
    plain_name, _ = decompressed(name, stream)
    if plain_name.lower().endswith(OTHER):
        yield Dropped("not_text", name)
        return
    if name.lower().endswith(".epub"):
        yield from epub.read(name, stream)
        return
    dropped: list[Dropped] = []
    for number, piece in enumerate(pieces(body(_kept(plain.texts(name, stream), dropped))), start=1):
        yield Document(piece, f"{plain_name}#{number}")
    yield from dropped


def _kept(found: Iterator[str | Dropped], dropped: list[Dropped]) -> Iterator[str]:
    for part in found:
        if isinstance(part, Dropped):
            dropped.append(part)
        else:
            yield part


def body(parts: Iterable[str]) -> Iterator[str]:
    """What stands between Project Gutenberg's start and end marks, where there are any, of a text in parts."""
    last: str | None = None
    for part in parts:
        if last is None:
            starts = [match.end() for match in START.finditer(part, 0, min(len(part), WRAPPING))]
            last = part[starts[-1] :] if starts else part
        else:
            yield last
            last = part
    if last is not None:
        end = END.search(last, max(len(last) - WRAPPING, 0))
        yield last[: end.start()] if end else last


def pieces(parts: Iterable[str]) -> Iterator[str]:
    """Cut a text that comes in parts at chapters where they come at the right distance, else between paragraphs."""
    piece: list[str] = []
    size = 0
    for paragraph in (paragraph for part in parts for paragraph in re.split(r"\n[ \t\r]*\n", part)):
        if not paragraph.strip():
            continue
        is_unit = UNIT.match(paragraph.lstrip("\n")) is not None
        if piece and (size > 2 * PIECE or (size > PIECE and is_unit)):
            yield "\n\n".join(piece)
            piece, size = [], 0
        piece.append(paragraph.strip("\n"))
        size += len(paragraph)
    if piece:
        yield "\n\n".join(piece)
