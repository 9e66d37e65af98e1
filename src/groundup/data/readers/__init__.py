"""Readers: from the bytes of a file to documents, one reader for each kind of source.

    reader_options.py  options and size limits
    encoding.py        character encodings
    text.py            plain text
    markdown.py        Markdown
    rst_inline.py      reStructuredText within a paragraph
    rst.py             reStructuredText
    wiki_sites.py      namespaces and section titles of a wiki
    measurements.py    measures and numbers in wikitext
    wikitext_local_templates.py  templates that print words, in other languages than English
    wikitext_templates.py  templates that print words
    wikitext.py        wikitext to plain text
    wikipedia.py       MediaWiki XML dumps
    html_markup.py     lists, joiners and superscripts of pages
    html.py            HTML pages and their main text
    http_body.py       HTTP bodies: chunks and compression
    arc.py             ARC files
    web.py             WARC and WET files
    epub.py            EPUB books
    books.py           books as text or EPUB
    pdf.py             PDF files
    pdf_layout.py      paragraphs from the lines of a PDF
    office.py          DOCX, ODT and RTF
    mail.py            messages and mail boxes
    subtitles.py       SubRip, WebVTT, SubStation
    code.py            source code and Jupyter notebooks
    records.py         records and their text
    text_lines.py      lines in any character set
    jsonl.py           JSON lines and arrays
    spreadsheet.py     XLSX
    table.py           Parquet, Arrow, CSV, TSV, XLSX
    gettext.py         catalogues of messages and their translations
    huggingface.py     Hugging Face dataset folders

A reader is `read(name, stream, options) -> Iterator[Document | DroppedDocument]`. It reports everything that it leaves
out and respects the limits of reader_options.py for any input.
"""

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import IO

from groundup.data.document import ReadResult
from groundup.data.readers.reader_options import ReaderOptions

Reader = Callable[[str, IO[bytes], ReaderOptions], Iterator[ReadResult]]

READERS = (
    "wikipedia", "books", "web", "code", "text", "markdown", "rst", "html", "pdf", "office", "mail", "subtitles", "jsonl",
    "table", "huggingface", "gettext",
)  # fmt: skip
"""Each is a SourceKind and a module of this package."""


def get_reader(kind: str) -> Reader:
    """The `read` function for a kind of source, imported on first use."""
    if kind not in READERS:
        raise ValueError(f"no reader for kind {kind}; one of {', '.join(READERS)}")
    return import_module(f"groundup.data.readers.{kind}").read
