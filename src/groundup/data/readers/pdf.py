"""PDF reader (PDFium): the text layer of a file, its lines put together to paragraphs."""

import re
import zlib
from collections.abc import Iterator
from typing import IO, Any

from groundup.data.archive import open_decompressed
from groundup.data.document import Document, DroppedDocument, ReadResult
from groundup.data.readers.books import split_chapters
from groundup.data.readers.pdf_layout import PageLine, compose_accents, layout_text
from groundup.data.readers.reader_options import MAX_BYTES, ReaderOptions, read_bounded

MAX_PAGE_CHARACTERS = 1 << 20
MAX_STREAM_RATIO = 200
"""A compressed stream of more than MAX_BYTES and this ratio is a decompression bomb."""
MIN_SCAN_CHARACTERS = 20
"""A page with an image and less text is a scan: nothing is guessed from its pixels."""
MAX_UNMAPPED_RATIO = 0.1
"""Characters of fonts that do not say which letters they draw; a page with more of them cannot be read."""

STREAM = re.compile(rb"stream\r?\n")
FIXED_PITCH = 1
FIXED_FONT = re.compile(rb"mono|courier|typewriter|consol|cm(?:sl|it|b)?tt|-TT", re.IGNORECASE)
UNMAPPED = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ue000-\uf8ff\ufffd]")
PLAIN_CHARACTERS = str.maketrans({
    "ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st", "\xa0": " ", "\r": " ", "\n": " ",
    **dict.fromkeys("\uf0b7\uf0a7\uf076\uf0d8\uf02d", "•"),
})  # fmt: skip
"""Ligatures as letters, and the bullets of the Symbol and Wingdings fonts."""


def read(name: str, stream: IO[bytes], options: ReaderOptions) -> Iterator[ReadResult]:
    """The text of a file as one document, or as several `name#1`, `name#2` ... that are split as books are; each scanned page
    as "scanned_page".
    """
    name, stream = open_decompressed(name, stream)
    if not options.by_content and not name.lower().endswith(".pdf"):
        return
    data = read_bounded(stream, MAX_BYTES)
    if data is None or _is_bomb(data):
        yield DroppedDocument("too_large", name)
        return
    from pypdfium2 import PdfDocument, PdfiumError

    try:
        document = PdfDocument(data)
    except PdfiumError as error:
        yield DroppedDocument("encrypted" if "password" in str(error).lower() else "broken_pdf", name, str(error))
        return
    pages: list[list[PageLine]] = []
    size = 0
    try:
        for number in range(len(document)):
            try:
                found = _read_page(document[number], f"{name}#page={number + 1}")
            except PdfiumError as error:
                found = DroppedDocument("broken_page", f"{name}#page={number + 1}", str(error))
            if isinstance(found, DroppedDocument):
                yield found
                continue
            pages.append(found)
            size += sum(len(line.text) for line in found)
            if size > MAX_BYTES // 4:
                yield DroppedDocument("too_large", f"{name}#page={number + 1}")
                break
    finally:
        document.close()
    if text := layout_text(pages):
        parts = list(split_chapters([text]))
        yield from (
            Document(part, f"{name}#{number}" if len(parts) > 1 else name) for number, part in enumerate(parts, start=1)
        )
    elif not any(pages):
        yield DroppedDocument("no_text", name)


def _is_bomb(data: bytes) -> bool:
    """Whether a compressed stream grows beyond all measure: PDFium would hold it whole."""
    for keyword in STREAM.finditer(data):
        start = position = keyword.end()
        decompressor, size, rest = zlib.decompressobj(), 0, b""
        try:
            while not decompressor.eof and (rest or position < len(data)):
                if not rest:
                    rest, position = data[position : position + (1 << 14)], position + (1 << 14)
                size += len(decompressor.decompress(rest, 1 << 20))
                rest = decompressor.unconsumed_tail
                if size > max(MAX_BYTES, MAX_STREAM_RATIO * (position - start)):
                    return True
        except zlib.error:  # another filter, or damage
            continue
    return False


def _read_page(page: Any, id: str) -> list[PageLine] | DroppedDocument:
    """Lines of a page in the order of its content, or the reason to drop it."""
    from pypdfium2.raw import FPDF_PAGEOBJ_IMAGE

    text_page = page.get_textpage()
    try:
        count = text_page.count_chars()
        if count > MAX_PAGE_CHARACTERS:
            return DroppedDocument("too_large", id)
        text = text_page.get_text_range().translate(PLAIN_CHARACTERS | {"\r": "\r", "\n": "\n"})
        if len(text.strip()) < MIN_SCAN_CHARACTERS and any(page.get_objects([FPDF_PAGEOBJ_IMAGE], max_depth=3)):
            return DroppedDocument("scanned_page", id)
        if len(UNMAPPED.findall(text)) > MAX_UNMAPPED_RATIO * len(text):
            return DroppedDocument("unreadable_font", id, text)
        return list(_page_lines(text_page, text_page.get_text_range(), count))
    finally:
        text_page.close()
        page.close()


def _page_lines(text_page: Any, text: str, count: int) -> Iterator[PageLine]:
    """Lines with their places; without, if characters outside the basic plane shift the indices."""
    position = 0
    for line in re.split("\r\n|(?<=\ufffe)(?!\r\n)", text):
        first = position
        position += len(line) + 2 * text.startswith("\r\n", position + len(line))
        plain = " ".join(UNMAPPED.sub("", line.translate(PLAIN_CHARACTERS)).split())
        if not plain:
            continue
        if len(text) != count:
            yield PageLine(compose_accents(plain))
            continue
        last = first + len(line.rstrip()) - 1
        first += len(line) - len(line.lstrip())
        yield _placed_line(text_page, plain, first, last)


def _placed_line(text_page: Any, text: str, first: int, last: int) -> PageLine:
    """A line of the characters `first` to `last`, with its baseline and the font of both ends."""
    from ctypes import c_double, c_int, create_string_buffer

    from pypdfium2 import raw

    left, bottom, _, top = text_page.get_charbox(first, loose=True)
    right = text_page.get_charbox(last, loose=True)[2]
    x, y, flags, name = c_double(), c_double(), c_int(), create_string_buffer(64)
    raw.FPDFText_GetCharOrigin(text_page, first, x, y)
    is_fixed = True
    for index in (first, last):
        raw.FPDFText_GetFontInfo(text_page, index, name, 64, flags)
        is_fixed &= bool(flags.value & FIXED_PITCH) or FIXED_FONT.search(name.value) is not None
    size = raw.FPDFText_GetFontSize(text_page, first)
    return PageLine(compose_accents(text, is_fixed), left, right, y.value, top - bottom, size, is_fixed)
