"""Reader of word processor files: DOCX (ECMA-376, part 1, section 17), ODT (OpenDocument 1.3, part 3) and RTF.

The XML of DOCX and ODT is read as a stream: memory is that of one paragraph and of the text.
"""

import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import IO
from xml.etree.ElementTree import ParseError, XMLParser

from groundup.data.archive import open_decompressed
from groundup.data.document import DroppedDocument, ReadResult
from groundup.data.readers.reader_options import MAX_BYTES, ReaderOptions, read_bounded
from groundup.data.readers.text import split_document

MAX_RTF_BYTES = 16 << 20
MAX_DEPTH = 256

DOCX_BODY, ODT_BODY = "word/document.xml", "content.xml"
OFFICE_SUFFIXES = (".docx", ".docm", ".dotx", ".odt", ".ott", ".fodt", ".rtf")
LIST_STYLE, STYLE = (
    re.compile("List(?:Bullet|Number)"),
    "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}val",
)
RTF_START = b"{\\rtf"


@dataclass(frozen=True)
class XmlVocabulary:
    """Local names of the elements that matter.

    Attributes:
        texts: elements whose text is printed; empty: all within a paragraph.
        characters: elements that stand for characters.
        skipped: left out with all that they hold.
        item: marks a paragraph as a list's item.
    """

    paragraphs: frozenset[str]
    texts: frozenset[str]
    characters: dict[str, str]
    skipped: frozenset[str]
    item: str
    row: str
    cell: str


DOCX = XmlVocabulary(
    frozenset(["p"]), frozenset(["t"]), {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-", "ptab": "\t"},
    frozenset(["del", "moveFrom", "Fallback", "pPr", "rPr", "tblPr", "sdtPr"]), "numPr", "tr", "tc",
)  # fmt: skip
ODT = XmlVocabulary(
    frozenset(["p", "h"]), frozenset(), {"tab": "\t", "line-break": "\n", "s": " "},
    frozenset(["annotation", "tracked-changes", "note-citation", "desc", "title", "index-title-template", "ruby-text"]),
    "list-item", "table-row", "table-cell",
)  # fmt: skip


class OfficeText:
    """Target of an XML parser: collects `parts`, which are paragraphs, and table rows with tabs between their cells.

    Text boxes and notes lie within paragraphs, tables within cells.
    """

    def __init__(self, vocabulary: XmlVocabulary):
        self.names = vocabulary
        self.parts: list[str] = []
        self._sinks: list[list[str]] = [self.parts]  # of the text, of open rows and open cells
        self._paragraphs: list[list[str]] = []
        self._is_item = False
        self._depth = self._skipped_at = self._texts = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ValueError(f"elements nested deeper than {MAX_DEPTH}")
        name = tag.rpartition("}")[2]
        self._is_item |= name == self.names.item or (
            name == "pStyle" and bool(LIST_STYLE.match(attributes.get(STYLE, "")))
        )
        if self._skipped_at:
            return
        if name in self.names.skipped:
            self._skipped_at = self._depth
        elif name in self.names.paragraphs:
            self._paragraphs.append([])
        elif name in (self.names.row, self.names.cell):
            self._sinks.append([])
        elif name in self.names.characters and self._paragraphs:
            self._paragraphs[-1].append(self.names.characters[name])
        elif name in self.names.texts:
            self._texts += 1

    def data(self, text: str) -> None:
        if self._paragraphs and not self._skipped_at and (self._texts or not self.names.texts):
            self._paragraphs[-1].append(text if self.names.texts else re.sub(r"\s+", " ", text))

    def end(self, tag: str) -> None:
        self._depth -= 1
        if self._skipped_at:
            self._skipped_at = 0 if self._depth < self._skipped_at else self._skipped_at
            return
        name = tag.rpartition("}")[2]
        if name in self.names.texts:
            self._texts -= 1
        elif name in self.names.paragraphs and self._paragraphs:
            lines = "".join(self._paragraphs.pop()).split("\n")
            text = "\n".join(line.strip() for line in lines).strip()
            self._sinks[-1] += [f"- {text}" if self._is_item else text] if text else []
            self._is_item = False
        elif name == self.names.cell and len(self._sinks) > 2:
            self._sinks[-2].append(" ".join(self._sinks.pop()))
        elif name == self.names.row and len(self._sinks) > 1:
            row = "\t".join(self._sinks.pop()).strip()
            self._sinks[-1] += [row] if row else []

    def close(self) -> None:
        """Called by the parser at the end."""

    @property
    def text(self) -> str:
        """Paragraphs parted by blank lines, items and rows by line ends."""
        pieces: list[str] = []
        for above, part in pairwise(["", *self.parts]):
            is_list = (above.startswith("- ") and part.startswith("- ")) or ("\t" in above and "\t" in part)
            pieces += ["\n" if is_list else "\n\n", part]
        return "".join(pieces[1:])


def read(name: str, stream: IO[bytes], options: ReaderOptions) -> Iterator[ReadResult]:
    """The text of a file as one document, or several `name#1`, `name#2` ..., without deleted text and comments."""
    name, stream = open_decompressed(name, stream)
    if not options.by_content and not name.lower().endswith(OFFICE_SUFFIXES):
        return
    data = read_bounded(stream, MAX_BYTES)
    if data is None:
        yield DroppedDocument("too_large", name)
        return
    try:
        if data.startswith(RTF_START):
            text = _rtf_text(data)
        elif data.startswith(b"PK"):
            text = _zip_text(data)
        else:
            text = _xml_text(io.BytesIO(data), ODT)
    except (
        zipfile.BadZipFile,
        zlib.error,
        KeyError,
        ParseError,
        OSError,
        EOFError,
        ValueError,
        NotImplementedError,
    ) as error:
        yield DroppedDocument("broken_office_file", name, f"{type(error).__name__}: {error}")
        return
    except RuntimeError as error:  # zipfile: a password is needed
        yield DroppedDocument("encrypted", name, str(error))
        return
    if text is None:
        yield DroppedDocument("too_large", name)
    elif text.strip():
        yield from split_document(name, text)
    else:
        yield DroppedDocument("no_text", name)


def _rtf_text(data: bytes) -> str | None:
    if len(data) > MAX_RTF_BYTES:
        return None
    from striprtf.striprtf import rtf_to_text

    lines = rtf_to_text(data.decode("latin-1"), encoding="cp1252", errors="replace").splitlines()
    return "\n\n".join(line.replace("\xa0", " ").strip() for line in lines if line.strip())


def _zip_text(data: bytes) -> str | None:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        names = set(file.namelist())
        if "META-INF/manifest.xml" in names and b"encryption-data" in file.open("META-INF/manifest.xml").read(1 << 20):
            raise RuntimeError("a password is needed")
        is_docx = ODT_BODY not in names
        parts = [DOCX_BODY, "word/footnotes.xml", "word/endnotes.xml"] if is_docx else [ODT_BODY]
        texts: list[str] = []
        size = 0
        for part in (part for part in parts if part in names or part == parts[0]):
            size += file.getinfo(part).file_size  # zipfile reads no more
            if size > MAX_BYTES:
                return None
            with file.open(part) as stream:
                texts.append(_xml_text(stream, DOCX if is_docx else ODT))
        return "\n\n".join(text for text in texts if text)


def _xml_text(stream: IO[bytes], vocabulary: XmlVocabulary) -> str:
    target = OfficeText(vocabulary)
    parser = XMLParser(target=target)
    while part := stream.read(1 << 16):
        parser.feed(part)
    parser.close()
    return target.text
