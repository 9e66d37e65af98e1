"""MediaWiki reader (Wikipedia): XML dumps, page by page in constant memory."""

from collections.abc import Iterator
from typing import IO, BinaryIO, cast
from xml.etree.ElementTree import Element, ParseError, iterparse

from groundup.data.archive import open_decompressed
from groundup.data.document import Document, DroppedDocument, ReadResult
from groundup.data.readers.reader_options import ReaderOptions
from groundup.data.readers.wiki_sites import WikiSite
from groundup.data.readers.wikitext import render_article

REDIRECT_WORDS = ("#redirect", "#пренасочване", "#weiterleitung", "#redirection", "#redirección", "#перенаправление")
XML_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
MAX_WIKI_PAGE_BYTES = 32 << 20
MAX_ELEMENTS = 1 << 20
MAX_DEPTH = 64
"""Limits for bytes, elements and nesting of one page."""


def read(name: str, stream: IO[bytes], options: ReaderOptions) -> Iterator[ReadResult]:
    """The last revision of each article. Redirects and pages of other namespaces (talk, templates ...) are dropped.

    A truncated dump gives the pages before the break and one dropped document, "broken_dump".
    """
    _, stream = open_decompressed(name, stream)
    limiter = PageLimiter(stream)
    root: Element | None = None
    open_elements: list[Element] = []
    site = WikiSite.of()
    try:
        for event, element in iterparse(cast(BinaryIO, limiter), events=("start", "end")):
            if event == "start":
                root = element if root is None else root
                open_elements.append(element)
                limiter.count_element(len(open_elements))
                continue
            open_elements.pop()
            tag = element.tag.rpartition("}")[2]
            if tag == "page" and root is not None:
                yield _page(element, site)
                root.clear()
                limiter.reset()
            elif tag == "siteinfo" and root is not None:
                site = WikiSite.from_siteinfo(element, root.get(XML_LANGUAGE, ""))
            elif tag == "revision" and open_elements:  # full history: keep the last revision
                page = open_elements[-1]
                for child in list(page):  # later revisions may already be present
                    if child is element:
                        break
                    if child.tag == element.tag:
                        page.remove(child)
                limiter.reset()
    except (ParseError, EOFError, OSError, ValueError) as error:
        yield DroppedDocument("broken_dump", name, str(error))


class PageLimiter:
    """Stream that limits the size of a page or revision; call `reset` after each. (expat limits entities.)"""

    def __init__(self, stream: IO[bytes]):
        self.stream = stream
        self.reset()

    def reset(self) -> None:
        self.size = self.elements = 0

    def count_element(self, depth: int) -> None:
        self.elements += 1
        if depth > MAX_DEPTH or self.elements > MAX_ELEMENTS:
            raise ValueError(f"a page of more than {MAX_ELEMENTS} elements, or nested deeper than {MAX_DEPTH}")

    def read(self, amount: int) -> bytes:
        data = self.stream.read(amount)
        self.size += len(data)
        if self.size > MAX_WIKI_PAGE_BYTES:
            raise ValueError(f"a page larger than {MAX_WIKI_PAGE_BYTES} bytes")
        return data


def _page(page: Element, site: WikiSite) -> ReadResult:
    fields = {child.tag.rpartition("}")[2]: child for child in page}
    title = (fields["title"].text or "") if "title" in fields else ""
    namespace = fields["ns"].text if "ns" in fields else "0"
    text = ""
    if "revision" in fields:
        found = [child.text for child in fields["revision"] if child.tag.rpartition("}")[2] == "text"]
        text = found[-1] or "" if found else ""
    if "redirect" in fields or text.lstrip().lower().startswith(REDIRECT_WORDS):
        return DroppedDocument("redirect", title, text[:200])
    if namespace != "0":
        return DroppedDocument("not_an_article", title, text[:2000])
    plain, dropped = render_article(text, site, title)
    return Document(plain, title, left_out={"sentences with an unknown template": dropped} if dropped else {})
