"""Web crawl reader: pages in WARC files (HTML responses) and WET files (extracted text)."""

from collections.abc import Iterator
from typing import IO, Any, BinaryIO, cast

from groundup.data.archive import is_seekable
from groundup.data.document import Document, DroppedDocument, ReadResult
from groundup.data.readers.encoding import decode_bytes
from groundup.data.readers.html import extract_page
from groundup.data.readers.http_body import decode_http_body
from groundup.data.readers.reader_options import MAX_BYTES, MAX_PAGE_BYTES, ReaderOptions

HTML_TYPES = ("text/html", "application/xhtml+xml")
GZIP_MEMBER = b"\x1f\x8b\x08"
MAX_REPAIRS = 1_000


def read(name: str, stream: IO[bytes], options: ReaderOptions) -> Iterator[ReadResult]:
    """One document per page; the id is its URL. Revisits, redirects, errors and other content types are dropped.

    A damaged gzip member is one dropped document; reading continues at the next member if the stream is seekable.
    """
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    record_types = WarcRecordType.response | WarcRecordType.revisit | WarcRecordType.conversion
    start = 0
    has_members = is_seekable(stream) and stream.read(3) == GZIP_MEMBER
    if is_seekable(stream):
        stream.seek(0)
    for _ in range(MAX_REPAIRS):
        position = start
        records = 0
        try:
            for record in ArchiveIterator(cast(BinaryIO, stream), record_types=record_types, parse_http=True):
                records += 1
                position = start + record.stream_pos
                if has_members and record.content_length > MAX_BYTES:  # a wrong length would hide the following records
                    raise ValueError(f"a record of {record.content_length} bytes")
                yield _document(record, record.headers.get("WARC-Target-URI") or str(record.record_id), options)
            if records == 0 and start == 0:
                yield DroppedDocument("no_record", name)
            return
        except (OSError, EOFError, ValueError, RuntimeError) as error:
            yield DroppedDocument("broken_record", f"{name}@{position}", str(error))
        found = _next_member(stream, position + 1)
        if found is None:
            return
        start = found


def _document(record: Any, address: str, options: ReaderOptions) -> ReadResult:
    from fastwarc.warc import WarcRecordType

    if record.record_type == WarcRecordType.revisit:
        return DroppedDocument("revisit", address)
    is_page = record.record_type == WarcRecordType.response
    if is_page and record.http_headers is None:
        return DroppedDocument("no_http_headers", address)
    if is_page and record.http_headers.status_code != 200:
        return DroppedDocument("http_status", address, str(record.http_headers.status_code))
    if is_page and (record.http_content_type or "").lower() not in HTML_TYPES:
        return DroppedDocument("not_html", address, record.http_content_type or "")
    data: bytes | None = record.reader.read(MAX_PAGE_BYTES + 1)
    if is_page and data is not None and len(data) <= MAX_PAGE_BYTES:
        headers = record.http_headers
        transfer, content = headers.get("Transfer-Encoding") or "", headers.get("Content-Encoding") or ""
        data = decode_http_body(data, transfer, content, MAX_PAGE_BYTES)
    if data is None or len(data) > MAX_PAGE_BYTES:
        return DroppedDocument("too_large", address)
    if is_page:
        return extract_page(address, data, record.http_charset, options)
    decoded = decode_bytes(data)
    return Document(decoded.text, address, decoded.encoding)


def _next_member(stream: IO[bytes], position: int) -> int | None:
    """Seek to the next gzip member at or after `position`; None if there is none or the stream is not seekable."""
    if not is_seekable(stream):
        return None
    stream.seek(position)
    carried = b""
    while part := stream.read(1 << 20):
        window = carried + part
        start = position - len(carried)
        if (found := window.find(GZIP_MEMBER)) >= 0:
            return stream.seek(start + found)
        carried = window[-2:]
        position += len(part)
    return None
