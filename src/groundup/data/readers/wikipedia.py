"""Wikipedia and every other MediaWiki: the XML dump, page by page, in constant memory."""

from collections.abc import Iterator
from typing import IO
from xml.etree.ElementTree import ParseError, iterparse

from groundup.data.archive import decompressed
from groundup.data.document import Document, Dropped, Read
from groundup.data.readers.wikitext import plain_text

REDIRECT_WORDS = (
    "#redirect",
    "#пренасочване",
    "#weiterleitung",
    "#redirection",
    "#redirección",
    "#перенаправление",
)


def read(name: str, stream: IO[bytes]) -> Iterator[Read]:
    """The articles of a dump. Pages of other namespaces (talk, templates ...) and redirects are dropped.

    A dump that ends in the middle gives the pages before the break and one drop with the reason "broken_dump".
    Standard library only: expat expands no external entities, and refuses entity bombs since 2.4.1.
    """
    _, stream = decompressed(name, stream)
    root = None
    try:
        for event, element in iterparse(stream, events=("start", "end")):
            if root is None:
                root = element
            if event == "end" and element.tag.rpartition("}")[2] == "page":
                yield _page(element)
                root.clear()
    except (ParseError, EOFError, OSError, ValueError) as error:
        yield Dropped("broken_dump", name, str(error))


def _page(page) -> Read:  # noqa: ANN001
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
