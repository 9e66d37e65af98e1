"""Books as plain text: without the licence that Project Gutenberg wraps around them, in pieces of a few chapters."""

import re
from collections.abc import Iterator
from typing import IO

from groundup.data.archive import decompressed
from groundup.data.document import Document, Dropped, Read
from groundup.data.readers.text import decode

START = re.compile(
    r"\*{3}\s*START OF (?:THE|THIS) PROJECT GUTENBERG[^\n*]*\*{3}|^\*END[* ]+THE SMALL PRINT[^\n]*$",
    re.IGNORECASE | re.MULTILINE,
)
END = re.compile(
    r"\*{3}\s*END OF (?:THE|THIS) PROJECT GUTENBERG|^\s*End of (?:the |this )?Project Gutenberg",
    re.IGNORECASE | re.MULTILINE,
)
UNIT = re.compile(
    r"^\s*(?:chapter|book|act|part|canto|volume|scene|sonnet|letter|section)\b[^\n]{0,80}$", re.IGNORECASE
)
PIECE = 20_000
"""Characters after which a book is cut at the next chapter, and twice that at the next paragraph: a filter or a
deduplication that judges whole books is blunt, and one that judges paragraphs is blind."""


def read(name: str, stream: IO[bytes]) -> Iterator[Read]:
    """The pieces of one book, each a document `name#1`, `name#2` ..."""
    name, stream = decompressed(name, stream)
    if name.lower().endswith((".png", ".jpg", ".gif", ".pdf")):
        yield Dropped("not_text", name)
        return
    text = body(decode(stream.read()))
    for number, piece in enumerate(pieces(text), start=1):
        yield Document(piece, f"{name}#{number}")


def body(text: str) -> str:
    """What stands between Project Gutenberg's start and end marks, where there are any."""
    starts = [match.end() for match in START.finditer(text, 0, min(len(text), 60_000))]
    text = text[starts[-1] :] if starts else text
    end = END.search(text, len(text) // 2)
    return text[: end.start()] if end else text


def pieces(text: str) -> Iterator[str]:
    """Cut at chapters where they come at the right distance, else between paragraphs."""
    paragraphs = re.split(r"\n\s*\n", text)
    piece: list[str] = []
    size = 0
    for paragraph in paragraphs:
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
