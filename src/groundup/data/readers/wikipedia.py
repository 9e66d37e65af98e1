"""Wikipedia and every other MediaWiki: the XML dump, page by page, in constant memory."""

from collections.abc import Iterator
from typing import IO, BinaryIO, cast
from xml.etree.ElementTree import Element, ParseError, iterparse

from groundup.data.archive import decompressed
from groundup.data.document import Document, Dropped, Read
from groundup.data.readers.options import Options
from groundup.data.readers.wikitext import plain_text

REDIRECT_WORDS = (
    "#redirect",
    "#пренасочване",
    "#weiterleitung",
    "#redirection",
    "#redirección",
    "#перенаправление",
)
MAX_PAGE = 32 << 20
MAX_DEPTH = 64


def read(name: str, stream: IO[bytes], options: Options) -> Iterator[Read]:
    """The articles of a dump. Pages of other namespaces (talk, templates ...) and redirects are dropped.

    A dump that ends in the middle gives the pages before the break and one drop with the reason
    "broken_dump".
    """
    _, stream = decompressed(name, stream)
    meter = Meter(stream)
    root: Element | None = None
    depth = 0
    try:
        for event, element in iterparse(cast(BinaryIO, meter), events=("start", "end")):
            if event == "start":
                root = element if root is None else root
                depth += 1
                if depth > MAX_DEPTH:
                    raise ValueError(f"elements nested deeper than {MAX_DEPTH}")
                continue
            depth -= 1
            if element.tag.rpartition("}")[2] == "page" and root is not None:
                yield _page(element)
                root.clear()
                meter.size = 0
    except (ParseError, EOFError, OSError, ValueError) as error:
        yield Dropped("broken_dump", name, str(error))


class Meter:
    """Counts what was read since the last page: an endless page must not fill the memory. (expat itself
    bounds entities.)
    """

    def __init__(self, stream: IO[bytes]):
        self.stream, self.size = stream, 0

    def read(self, amount: int) -> bytes:
        data = self.stream.read(amount)
        self.size += len(data)
        if self.size > MAX_PAGE:
            raise ValueError(f"a page larger than {MAX_PAGE} bytes")
        return data


def _page(page: Element) -> Read:
    fields = {child.tag.rpartition("}")[2]: child for child in page}
    title = (fields["title"].text or "") if "title" in fields else ""
    namespace = fields["ns"].text if "ns" in fields else "0"
    text = ""
    if "revision" in fields:
        found = [child.text for child in fields["revision"] if child.tag.rpartition("}")[2] == "text"]
        text = found[-1] or "" if found else ""
    if "redirect" in fields or text.lstrip().lower().startswith(REDIRECT_WORDS):
        return Dropped("redirect", title, text[:200])
    if namespace != "0":
        return Dropped("not_an_article", title, text[:2000])
    return Document(plain_text(text), title)
