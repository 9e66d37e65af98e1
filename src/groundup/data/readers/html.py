"""HTML reader: the main text of a page, by trafilatura or resiliparse."""

import logging
import re
from collections.abc import Callable, Iterator
from typing import IO, Literal

from groundup.artifacts.arguments import check_choice
from groundup.data.archive import open_decompressed
from groundup.data.document import Document, DroppedDocument, ReadResult
from groundup.data.readers.encoding import decode_bytes
from groundup.data.readers.reader_options import MAX_PAGE_BYTES, ReaderOptions, read_bounded

MAX_TAGS = 50_000
MAX_DEPTH = 500
"""Pages beyond these limits are dropped: malicious, or not written for people."""

MAX_TRAFILATURA_TAGS = 15_000
"""Larger pages go to resiliparse: trafilatura's time grows with the square of some tags (20 s for 50,000 `<p>`)."""

HTML_START = re.compile(
    rb"\A\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*(?:<!doctype html|<html|<head|<body)", re.IGNORECASE | re.DOTALL
)
TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]{0,15})\b")
VOID_TAGS = frozenset([
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr",
    "p", "li", "td", "tr", "th", "dt", "dd", "option",
])  # fmt: skip


def read(name: str, stream: IO[bytes], options: ReaderOptions) -> Iterator[ReadResult]:
    """One document per file."""
    name, stream = open_decompressed(name, stream)
    if not options.by_content and not name.lower().endswith((".html", ".htm", ".xhtml")):
        return
    data = read_bounded(stream, MAX_PAGE_BYTES)
    yield DroppedDocument("too_large", name) if data is None else extract_page(name, data, None, options)


def extract_page(name: str, data: bytes, charset: str | None, options: ReaderOptions) -> ReadResult:
    """The main text of a page as a document, or the reason to drop it."""
    decoded = decode_bytes(data, charset)
    source = decoded.text.replace("\0", "")
    tags = source.count("<")
    if tags > MAX_TAGS or nesting_depth(source) > MAX_DEPTH:
        return DroppedDocument("too_complex", name, source[:2000])
    extract = extract_resiliparse if tags > MAX_TRAFILATURA_TAGS else EXTRACTORS[options.html_extractor]
    text = extract(source)
    return Document(text, name, decoded.encoding) if text else DroppedDocument("no_main_text", name, source[:2000])


def extract_text(source: str | bytes, html_extractor: Literal["trafilatura", "resiliparse"] = "trafilatura") -> str:
    """Main text of an HTML page; "" if it has none or is too complex.

    >>> extract_text("<html><body><p>One paragraph of the page.</p></body></html>", "resiliparse")
    'One paragraph of the page.'
    """
    check_choice("html_extractor", html_extractor, EXTRACTORS)
    data, charset = (source.encode("utf-8", "replace"), "utf-8") if isinstance(source, str) else (source, None)
    found = extract_page("", data, charset, ReaderOptions(html_extractor=html_extractor))
    return found.text if isinstance(found, Document) else ""


def nesting_depth(source: str) -> int:
    """Approximate nesting depth; tags that browsers close implicitly do not count."""
    level = deepest = 0
    for closing, tag in TAG.findall(source):
        if tag.lower() not in VOID_TAGS:
            level = max(level - 1, 0) if closing else level + 1
            deepest = max(deepest, level)
    return deepest


def extract_trafilatura(source: str) -> str:
    """trafilatura (Barbaresi 2021): the best F1 in benchmarks/extraction.py, about fifty pages a second."""
    from trafilatura import extract

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    try:
        return extract(source, fast=True, include_comments=False, include_tables=False) or ""
    except Exception:  # parsers fail in unpredictable ways on web pages
        return ""


def extract_resiliparse(source: str) -> str:
    """resiliparse (Bevendorff et al. 2018): seven times as fast, some points of F1 lower."""
    from resiliparse.extract.html2text import extract_plain_text

    return extract_plain_text(source, main_content=True, alt_texts=False, list_bullets=False).strip()


EXTRACTORS: dict[str, Callable[[str], str]] = {"trafilatura": extract_trafilatura, "resiliparse": extract_resiliparse}
