"""Web crawls: the HTML pages of WARC files, and the main text of each."""

from collections.abc import Iterator
from typing import IO

from groundup.data.document import Document, Dropped, Read
from groundup.data.readers.html import main_text

MAX_BYTES = 4 << 20
HTML_TYPES = ("text/html", "application/xhtml+xml")


def read(name: str, stream: IO[bytes]) -> Iterator[Read]:
    """A document for each HTML response. Revisits, redirects, errors and other content types are dropped."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    wanted = WarcRecordType.response | WarcRecordType.revisit
    for record in ArchiveIterator(stream, record_types=wanted, parse_http=True):
        address = record.headers.get("WARC-Target-URI") or record.record_id
        if record.record_type == WarcRecordType.revisit:
            yield Dropped("revisit", address)
        elif record.http_headers is None:
            yield Dropped("no_http_headers", address)
        elif record.http_headers.status_code != 200:
            yield Dropped("http_status", address, str(record.http_headers.status_code))
        elif (record.http_content_type or "").lower() not in HTML_TYPES:
            yield Dropped("not_html", address, record.http_content_type or "")
        else:
            data = record.reader.read(MAX_BYTES + 1)
            if len(data) > MAX_BYTES:
                yield Dropped("too_large", address)
                continue
            text = main_text(data, record.http_charset)
            yield Document(text, address) if text else Dropped("no_main_text", address)
