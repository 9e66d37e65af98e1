"""Web crawl reader: pages in WARC and ARC files (HTML responses and resources) and WET files (extracted text)."""

from collections.abc import Iterator
from typing import IO, Any, BinaryIO, cast

from groundup.data.archive import is_seekable, rejoin
from groundup.data.document import Document, DroppedDocument, ReadResult
from groundup.data.readers.arc import ARC_START, ArcPage, iter_arc_records
from groundup.data.readers.encoding import decode_bytes
from groundup.data.readers.html import HTML_START, extract_page
from groundup.data.readers.http_body import decode_http_body, inflate
from groundup.data.readers.reader_options import MAX_PAGE_BYTES, ReaderOptions

HTML_TYPES = ("text/html", "application/xhtml+xml")
UNKNOWN_TYPES = ("", "unknown/unknown", "application/unknown", "*/*")
"""Content types that say nothing: the first bytes decide, as in browsers."""
GZIP_MEMBER = b"\x1f\x8b\x08"
NEXT_RECORD = b"\r\n\r\nWARC/1."
"""Within a record: its length is wrong, and it would hide the records behind it."""
MAX_REPAIRS = 1_000


def read(name: str, stream: IO[bytes], options: ReaderOptions) -> Iterator[ReadResult]:
    """One document per page; the id is its URL. Revisits, redirects, errors and other content types are dropped.

    A damaged record, or one with a wrong length, is one dropped document; reading continues at the next record if the
    stream is seekable.
    """
    head = stream.read(512)
    stream = rejoin(head, stream)
    is_gzip = head.startswith(GZIP_MEMBER)
    if ((inflate(head, 1 << 20) or b"") if is_gzip else head).startswith(ARC_START):
        for found in iter_arc_records(name, stream, is_gzip, MAX_PAGE_BYTES):
            yield found if isinstance(found, DroppedDocument) else _arc_document(found, options)
        return
    yield from _read_warc(name, stream, is_gzip, options)


def _read_warc(name: str, stream: IO[bytes], is_gzip: bool, options: ReaderOptions) -> Iterator[ReadResult]:
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    any_record = False
    for _ in range(MAX_REPAIRS):
        position = stream.tell() if is_seekable(stream) else 0
        pending: ReadResult | None = None  # until the next record shows that its length was right
        try:
            records = ArchiveIterator(cast(BinaryIO, stream), record_types=WarcRecordType.any_type, parse_http=True)
            for record in records:
                any_record = True
                if pending is not None:
                    yield pending
                    pending = None
                position = record.stream_pos
                length = record.content_length
                data = record.reader.read(MAX_PAGE_BYTES + 1)
                if NEXT_RECORD in data:
                    raise ValueError("its length is wrong: the next record is within it")
                is_headers_only = record.is_http and not data  # then the length is that of the headers
                if len(data) < min(length, MAX_PAGE_BYTES + 1) and not is_headers_only:
                    raise EOFError(f"{len(data)} bytes, expected {length}")
                pending = _document(record, data, options)
            if pending is not None:
                yield pending
            if not any_record:
                yield DroppedDocument("no_record", name)
            return
        except (OSError, EOFError, ValueError, RuntimeError) as error:
            following = _next_record(stream, position + 1, GZIP_MEMBER if is_gzip else NEXT_RECORD)
            if pending is not None and following is not None and "Gzip" in str(error):
                yield pending  # the next member is damaged, which is read again, not this one
                continue
            skipped = f"; {following - position} bytes skipped" if following is not None else ""
            yield DroppedDocument("broken_record", f"{name}@{position}", f"{error}{skipped}")
        if following is None:
            return
        any_record = True


def _document(record: Any, data: bytes, options: ReaderOptions) -> ReadResult | None:
    """The document of a record, the reason to drop it, or None for a record about others (request, metadata)."""
    from fastwarc.warc import WarcRecordType

    address = record.headers.get("WARC-Target-URI") or str(record.record_id)
    kind = record.record_type
    if kind == WarcRecordType.revisit:
        return DroppedDocument("revisit", address)
    if kind == WarcRecordType.response:
        headers = record.http_headers
        if headers is None:
            return DroppedDocument("no_http_headers", address)
        codings = headers.get("Transfer-Encoding") or "", headers.get("Content-Encoding") or ""
        return _page(
            address, headers.status_code, record.http_content_type, codings, data, record.http_charset, options
        )
    is_log = address.startswith(("metadata:", "urn:", "dns:"))  # what the crawler says of itself
    if kind not in (WarcRecordType.resource, WarcRecordType.conversion) or is_log:
        return None
    content_type = (record.headers.get("Content-Type") or "").partition(";")[0].strip().lower()
    if len(data) > MAX_PAGE_BYTES:
        return DroppedDocument("too_large", address)
    if content_type in HTML_TYPES or (content_type in UNKNOWN_TYPES and HTML_START.match(data)):
        return extract_page(address, data, None, options)
    if kind == WarcRecordType.resource and content_type != "text/plain":
        return DroppedDocument("not_html", address, content_type)
    decoded = decode_bytes(data)
    return Document(decoded.text, address, decoded.encoding)


def _arc_document(page: ArcPage, options: ReaderOptions) -> ReadResult:
    content_type, _, charset = page.headers.get("content-type", "").partition(";")
    codings = page.headers.get("transfer-encoding", ""), page.headers.get("content-encoding", "")
    charset = charset.partition("charset=")[2].strip(" \"'") or None
    return _page(page.address, page.status, content_type, codings, page.body, charset, options)


def _page(
    address: str, status: int | None, content_type: str | None, codings: tuple[str, str], body: bytes, charset: str | None,
    options: ReaderOptions,
) -> ReadResult:  # fmt: skip
    """The document of a response. `codings`: of the transfer and of the content."""
    if status != 200:
        return DroppedDocument("http_status", address, str(status))
    content_type = (content_type or "").strip().lower()
    if content_type not in (*HTML_TYPES, *UNKNOWN_TYPES):
        return DroppedDocument("not_html", address, content_type)
    data = decode_http_body(body, *codings, MAX_PAGE_BYTES) if len(body) <= MAX_PAGE_BYTES else None
    if data is None:
        return DroppedDocument("too_large", address)
    if content_type in UNKNOWN_TYPES and not HTML_START.match(data):
        return DroppedDocument("not_html", address, content_type)
    return extract_page(address, data, charset, options)


def _next_record(stream: IO[bytes], position: int, mark: bytes) -> int | None:
    """Seek to the next mark at or after `position`, behind its line ends; None if there is none or no way to seek."""
    if not is_seekable(stream):
        return None
    stream.seek(position)
    line_ends = len(mark) - len(mark.lstrip())
    carried = b""
    while part := stream.read(1 << 20):
        window = carried + part
        start = position - len(carried)
        if (found := window.find(mark)) >= 0:
            return stream.seek(start + found + line_ends)
        carried = window[1 - len(mark) :]
        position += len(part)
    return None
