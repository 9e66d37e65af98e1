"""EPUB reader: a zip of XHTML chapters. Source: https://www.w3.org/TR/epub-33/, sections 4 and 5."""

import io
import posixpath
import re
import zipfile
from collections.abc import Iterator
from typing import IO
from urllib.parse import unquote
from xml.etree.ElementTree import ParseError, fromstring

from groundup.data.document import Document, DroppedDocument, ReadResult
from groundup.data.readers.encoding import decode_bytes
from groundup.data.readers.html_markup import raise_digits
from groundup.data.readers.reader_options import MAX_BYTES, MAX_PAGE_BYTES, read_bounded

CONTAINER = "META-INF/container.xml"


def read(name: str, stream: IO[bytes]) -> Iterator[ReadResult]:
    """One document per chapter; chapters with little text (cover, table of contents) are dropped."""
    data = read_bounded(stream, MAX_BYTES)
    if data is None:
        yield DroppedDocument("too_large", name)
        return
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as book:
            remaining = MAX_BYTES
            for chapter in spine(book):
                id = f"{name}#{chapter}"
                if remaining <= 0:
                    yield DroppedDocument("too_large", id)
                    return
                with book.open(chapter) as file:
                    page = read_bounded(file, MAX_PAGE_BYTES)
                if page is None:
                    yield DroppedDocument("too_large", id)
                    continue
                remaining -= len(page)
                text = chapter_text(page)
                yield Document(text, id) if len(text) > 200 else DroppedDocument("no_main_text", id, text)
    except (
        zipfile.BadZipFile, KeyError, ParseError, OSError, EOFError, ValueError, NotImplementedError, RuntimeError,
    ) as error:  # fmt: skip
        yield DroppedDocument("broken_book", name, str(error))


def spine(book: zipfile.ZipFile) -> list[str]:
    """Members with the chapters, in reading order, without repetitions."""
    container = fromstring(_read_member(book, CONTAINER))
    package = next(element.get("full-path", "") for element in container.iter() if element.tag.endswith("rootfile"))
    root = fromstring(_read_member(book, package))
    items = {item.get("id"): item for item in root.iter() if item.tag.endswith("}item")}
    chapters = []
    for reference in (element for element in root.iter() if element.tag.endswith("}itemref")):
        item = items.get(reference.get("idref"))
        if item is not None and "html" in (item.get("media-type") or "") and item.get("properties") != "nav":
            path = posixpath.join(posixpath.dirname(package), unquote(item.get("href") or ""))
            chapters.append(posixpath.normpath(path))
    return list(dict.fromkeys(chapters))


def _read_member(book: zipfile.ZipFile, name: str) -> bytes:
    with book.open(name) as file:
        data = read_bounded(file, MAX_PAGE_BYTES)
    if data is None:
        raise ValueError(f"{name} is larger than {MAX_PAGE_BYTES} bytes")
    return data


def chapter_text(page: bytes) -> str:
    """All text of a chapter, paragraph by paragraph."""
    from resiliparse.extract.html2text import extract_plain_text

    text = extract_plain_text(
        raise_digits(decode_bytes(page).text), main_content=False, alt_texts=False, list_bullets=False
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip()
