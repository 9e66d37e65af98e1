"""Book reader: plain text without the Project Gutenberg license, split at chapters; and EPUB."""

import re
from collections.abc import Iterable, Iterator
from typing import IO

from groundup.data.archive import open_decompressed
from groundup.data.document import Document, DroppedDocument, ReadResult
from groundup.data.readers import epub
from groundup.data.readers import text as plain
from groundup.data.readers.encoding import DecodedText
from groundup.data.readers.reader_options import ReaderOptions

GUTENBERG_START = re.compile(
    r"\*{3}\s*START OF (?:THE|THIS) PROJECT GUTENBERG[^\n*]*\*{3}|^\*END[* ]+THE SMALL PRINT[^\n]*$",
    re.IGNORECASE | re.MULTILINE,
)
GUTENBERG_END = re.compile(
    r"\*{3}\s*END OF (?:THE|THIS) PROJECT GUTENBERG|^[ \t]*End of (?:the |this )?Project Gutenberg",
    re.IGNORECASE | re.MULTILINE,
)
CHAPTER_HEADING = re.compile(
    r"^[ \t]*(?:chapter|book|act|part|canto|volume|scene|sonnet|letter|section)\b[^\n]{0,80}$", re.IGNORECASE
)
NOT_TEXT_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".pdf", ".css", ".svg")
BOILERPLATE_CHARACTERS = 60_000
"""Maximum distance of the Gutenberg markers from the file's ends."""

PART_CHARACTERS = 20_000
"""Length after which a book is split at the next chapter heading, and at twice that at any paragraph: filters and
deduplication work better on chapters than on whole books or single paragraphs.
"""


def read(name: str, stream: IO[bytes], options: ReaderOptions) -> Iterator[ReadResult]:
    """The parts of one book as documents `name#1`, `name#2` ..."""
    plain_name, _ = open_decompressed(name, stream)
    if plain_name.lower().endswith(NOT_TEXT_SUFFIXES):
        yield DroppedDocument("not_text", name)
        return
    if name.lower().endswith(".epub"):
        yield from epub.read(name, stream)
        return
    dropped: list[DroppedDocument] = []
    encodings: list[str] = []
    texts = _collect_dropped(plain.iter_parts(name, stream), dropped, encodings)
    for number, part in enumerate(split_chapters(strip_gutenberg(texts)), start=1):
        yield Document(part, f"{plain_name}#{number}", encodings[-1])
    yield from dropped


def _collect_dropped(
    found: Iterator[DecodedText | DroppedDocument], dropped: list[DroppedDocument], encodings: list[str]
) -> Iterator[str]:
    for part in found:
        if isinstance(part, DroppedDocument):
            dropped.append(part)
        else:
            encodings.append(part.encoding)
            yield part.text


def strip_gutenberg(parts: Iterable[str]) -> Iterator[str]:
    """The text between Project Gutenberg's markers, if present, of a text in parts."""
    last: str | None = None
    for part in parts:
        if last is None:
            starts = [
                match.end() for match in GUTENBERG_START.finditer(part, 0, min(len(part), BOILERPLATE_CHARACTERS))
            ]
            last = part[starts[-1] :] if starts else part
        else:
            yield last
            last = part
    if last is not None:
        end = GUTENBERG_END.search(last, max(len(last) - BOILERPLATE_CHARACTERS, 0))
        yield last[: end.start()] if end else last


def split_chapters(parts: Iterable[str]) -> Iterator[str]:
    """Split a text that comes in parts at chapter headings, or else between paragraphs; see PART_CHARACTERS."""
    chapter: list[str] = []
    size = 0
    for paragraph in (paragraph for part in parts for paragraph in re.split(r"\n[ \t\r]*\n", part)):
        if not paragraph.strip():
            continue
        is_heading = CHAPTER_HEADING.match(paragraph.lstrip("\n")) is not None
        if chapter and (size > 2 * PART_CHARACTERS or (size > PART_CHARACTERS and is_heading)):
            yield "\n\n".join(chapter)
            chapter, size = [], 0
        chapter.append(paragraph.strip("\n"))
        size += len(paragraph)
    if chapter:
        yield "\n\n".join(chapter)
