"""HTML reader: the main text of a page, by trafilatura or resiliparse."""

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Literal, overload

from groundup.artifacts.arguments import apply_to_texts, check_choice
from groundup.artifacts.progress import Progress
from groundup.data.archive import open_decompressed
from groundup.data.document import Document, DroppedDocument, ReadResult
from groundup.data.readers.encoding import decode_bytes
from groundup.data.readers.html_markup import join_lines, keep_lists, raise_digits, shield
from groundup.data.readers.reader_options import MAX_PAGE_BYTES, ReaderOptions, read_bounded

HtmlExtractor = Literal["trafilatura", "resiliparse"]
MAX_TAGS = 50_000
MAX_DEPTH = 500
"""Pages beyond these limits are dropped: malicious, or not written for people."""

MAX_TRAFILATURA_TAGS = 15_000
"""Larger pages go to resiliparse: trafilatura's time grows with the square of some tags (20 s for 50,000 `<p>`)."""

HTML_START = re.compile(
    rb"\A\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*+(?:<!doctype html|<html|<head|<body)", re.IGNORECASE | re.DOTALL
)
FEED_HEAD = 4096
FEED_START = re.compile(
    r"\s*(?:<\?.*?\?>\s*|<!--.*?-->\s*|<!DOCTYPE[^>]*>\s*)*+<(?:rss|feed|rdf:RDF|urlset|sitemapindex)\b",
    re.DOTALL | re.I,
)
"""Feeds and site maps, which servers also send as pages."""
MIN_WORDS_SHARE = 0.6
"""Of resiliparse's words that trafilatura must find."""

TABLE_ROW = re.compile(r"^\|(.*)\|[ \t]*(?:\n|\Z)", re.MULTILINE)
LONE_MARKER = re.compile(r"^([ \t]*(?:-|\d{1,6}\.))[ \t]*\n\s*", re.MULTILINE)
"""The mark of a list item whose text begins with a block of its own."""
ANY_TAG = re.compile(r"<[^<>]*>")
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
    if FEED_START.match(source[:FEED_HEAD]):
        return DroppedDocument("feed", name, source[:2000])
    tags = source.count("<")
    if tags > MAX_TAGS or nesting_depth(source) > MAX_DEPTH:
        return DroppedDocument("too_complex", name, source[:2000])
    extract = extract_resiliparse if tags > MAX_TRAFILATURA_TAGS else EXTRACTORS[options.html_extractor]
    text = extract(source)
    return Document(text, name, decoded.encoding) if text else DroppedDocument("no_main_text", name, source[:2000])


@overload
def extract_text(
    source: str | bytes, html_extractor: HtmlExtractor = "trafilatura", *, progress: Progress | None = None
) -> str: ...
@overload
def extract_text(
    source: Iterable[str | bytes], html_extractor: HtmlExtractor = "trafilatura", *, progress: Progress | None = None
) -> list[str]: ...
def extract_text(
    source: str | bytes | Iterable[str | bytes],
    html_extractor: HtmlExtractor = "trafilatura",
    *,
    progress: Progress | None = None,
) -> str | list[str]:
    """Main text of an HTML page, or of each of several; "" if it has none or is too complex.

    >>> extract_text("<html><body><p>One paragraph of the page.</p></body></html>", "resiliparse")
    'One paragraph of the page.'
    >>> extract_text(["<p>Two.</p>".encode("utf-16"), "<p></p>"], "resiliparse")
    ['Two.', '']
    """
    check_choice("html_extractor", html_extractor, EXTRACTORS)
    options = ReaderOptions(html_extractor=html_extractor)

    def extract(page: str | bytes) -> str:
        data, charset = (page.encode("utf-8", "replace"), "utf-8") if isinstance(page, str) else (page, None)
        found = extract_page("", data, charset, options)
        return found.text if isinstance(found, Document) else ""

    return apply_to_texts(extract, source, "extracting", progress, (str, bytes))


def nesting_depth(source: str) -> int:
    """Approximate nesting depth; tags that browsers close implicitly do not count."""
    level = deepest = 0
    for closing, tag in TAG.findall(source):
        if tag.lower() not in VOID_TAGS:
            level = max(level - 1, 0) if closing else level + 1
            deepest = max(deepest, level)
    return deepest


def extract_trafilatura(source: str) -> str:
    """trafilatura (Barbaresi 2021): the most precise, about thirty pages a second. Where it finds much less than resiliparse
    (of threads the first post), the latter's text (benchmarks/extraction.py).
    """
    from trafilatura import extract

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    shielded, back = shield(join_lines(raise_digits(source)))
    try:
        text = extract(shielded, fast=True, include_comments=False, include_tables=True) or ""
    except Exception:  # parsers fail in unpredictable ways on web pages
        return ""
    text = TABLE_ROW.sub(_table_row, text) if "|" in text else text
    text = text.translate(str.maketrans(back)) if back else text
    words = len(text.split())
    if not text or words >= MIN_WORDS_SHARE * len(ANY_TAG.sub(" ", source).split()):
        return text
    whole = extract_resiliparse(source)
    return whole if words < MIN_WORDS_SHARE * len(whole.split()) else text


def extract_resiliparse(source: str) -> str:
    """resiliparse (Bevendorff et al. 2018): seven times as fast, and finds more of lists, tables and documentation."""
    from resiliparse.extract.html2text import extract_plain_text

    source = keep_lists(raise_digits(source))
    text = extract_plain_text(source, main_content=True, alt_texts=False, list_bullets=False).strip()
    return LONE_MARKER.sub(r"\1 ", text).replace("\t\t", "\t")


def _table_row(row: re.Match[str]) -> str:
    """A row of a table as resiliparse writes it, cells apart by tabs; without the line under the head."""
    cells = [cell.strip() for cell in row.group(1).split("|")]
    return "" if all(set(cell) == {"-"} for cell in cells) else "\t".join(cells) + "\n"


EXTRACTORS: dict[str, Callable[[str], str]] = {"trafilatura": extract_trafilatura, "resiliparse": extract_resiliparse}
