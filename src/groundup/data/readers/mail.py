"""Mail reader: messages (RFC 5322) and mail boxes (RFC 4155) of any size; subject and text, without attachments."""

import re
from collections.abc import Iterator
from email.errors import MessageError
from email.header import decode_header, make_header
from email.message import Message
from email.parser import BytesParser
from typing import IO

from groundup.data.archive import open_decompressed
from groundup.data.document import Document, DroppedDocument, ReadResult
from groundup.data.readers.encoding import decode_bytes
from groundup.data.readers.html import MAX_DEPTH, nesting_depth
from groundup.data.readers.reader_options import MAX_PAGE_BYTES, ReaderOptions

MAIL_SUFFIXES = (".eml", ".mbox", ".mbx")
MAX_MESSAGE_BYTES = 16 << 20
MAX_LINE_BYTES = 1 << 20
MAX_PARTS, MAX_NESTED_PARTS, MAX_HEADER_BYTES = 10_000, 100, 1 << 18
"""Messages beyond these limits are attacks: parsing takes minutes or gigabytes."""
MAX_SUBJECT_CHARACTERS = 1_000

BOX_START = re.compile(rb"From \S*.*\d{4}\s*$")
MAIL_HEADER = re.compile(
    rb"(?:From|Return-Path|Received|Delivered-To|Message-I[Dd]|MIME-Version|X-[\w-]+|Date|Subject|To|Reply-To):\s",
    re.IGNORECASE,
)
MULTIPART = re.compile(rb"multipart/|message/rfc822", re.IGNORECASE)
FORWARDED_FROM = re.compile(rb"^>(>*From )", re.MULTILINE)


def is_mail(head: bytes) -> bool:
    """Whether a file starts as a mail box, or with at least three headers of a message, From or Date among them."""
    lines = head[:8192].splitlines()
    if not lines:
        return False
    if BOX_START.match(lines[0]) and len(lines) > 1:
        return re.match(rb"[A-Za-z-]+:\s?|>From ", lines[1]) is not None
    names: set[bytes] = set()
    for line in lines:
        if not line or not (line[:1].isspace() or re.match(rb"[!-9;-~]+:", line)):
            break
        if MAIL_HEADER.match(line):
            names.add(line.partition(b":")[0].lower())
    return len(names) >= 3 and bool(names & {b"message-id", b"mime-version", b"received"}) and b"from" in names


def read(name: str, stream: IO[bytes], options: ReaderOptions) -> Iterator[ReadResult]:
    """One document per message; the id is its place in the box. Attachments are left out."""
    name, stream = open_decompressed(name, stream)
    if not options.by_content and not name.lower().endswith(MAIL_SUFFIXES):
        return
    number = 0
    for number, message in enumerate(_split_box(stream), start=1):
        id = f"{name}:{number}"
        yield DroppedDocument("too_large", id) if message is None else _document(id, message)
    if number == 0:
        yield DroppedDocument("no_text", name)


def _split_box(stream: IO[bytes]) -> Iterator[bytes | None]:
    """Messages, at "From " lines behind blank lines; None for one that is too large."""
    lines: list[bytes] = []
    size, is_blank, is_box = 0, True, False
    while line := stream.readline(MAX_LINE_BYTES):
        if is_blank and line.startswith(b"From ") and (BOX_START.match(line.rstrip()) or not (is_box or lines)):
            if lines:
                yield b"".join(lines) if size <= MAX_MESSAGE_BYTES else None
            lines, size, is_box = [], 0, True
            continue
        size += len(line)
        if size <= MAX_MESSAGE_BYTES:
            lines.append(line)
        elif lines:
            lines = [b""]
        is_blank = not line.strip()
    if lines:
        yield b"".join(lines) if size <= MAX_MESSAGE_BYTES else None


def _document(id: str, data: bytes) -> ReadResult:
    header = data.partition(b"\n\n")[0].partition(b"\r\n\r\n")[0]
    nested = len(MULTIPART.findall(data))
    if len(header) > MAX_HEADER_BYTES or data.count(b"\n--") > MAX_PARTS or nested > MAX_NESTED_PARTS:
        return DroppedDocument("too_complex", id)
    try:
        message = BytesParser().parsebytes(FORWARDED_FROM.sub(rb"\1", data))
        subject = _subject(message)
        body = _body(message).replace("\r\n", "\n").replace("\0", "").strip()
    except (MessageError, ValueError, LookupError, TypeError, AttributeError, AssertionError, RecursionError) as error:
        return DroppedDocument("broken_message", id, f"{type(error).__name__}: {error}")
    if not body:
        return DroppedDocument("no_text", id, subject)
    return Document(f"{subject}\n\n{body}" if subject else body, id)


def _subject(message: Message) -> str:
    raw = " ".join(str(message.get("subject", "")).split())[:MAX_SUBJECT_CHARACTERS]
    try:
        return str(make_header(decode_header(raw)))
    except (MessageError, LookupError, ValueError):
        return raw


def _body(message: Message) -> str:
    """The plain text of a message, else the text of its page; of several parts (forwarded messages) all of them."""
    plain: list[str] = []
    pages: list[str] = []
    for part in message.walk():
        if part.is_multipart() or part.get_content_disposition() == "attachment":
            continue
        kind = part.get_content_type()
        if kind == "text/plain":
            plain.append(_decode(part))
        elif kind == "text/html":
            pages.append(_decode(part))
    if any(text.strip() for text in plain):
        return "\n\n".join(plain)
    return "\n\n".join(_page_text(page) for page in pages if len(page) <= MAX_PAGE_BYTES)


def _decode(part: Message) -> str:
    data = part.get_payload(decode=True)
    if not isinstance(data, bytes):
        return ""
    return decode_bytes(data, part.get_content_charset()).text


def _page_text(page: str) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    return "" if nesting_depth(page) > MAX_DEPTH else extract_plain_text(page, main_content=False, alt_texts=False)
