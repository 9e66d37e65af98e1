"""Kind of a file by its first bytes, then its name: which reader takes it, or none."""

import io
import json
import re
from pathlib import PurePosixPath
from typing import Any

from groundup.data.archive import ARCHIVE_SUFFIXES, open_decompressed
from groundup.data.conversation_shapes import is_conversation
from groundup.data.readers.arc import ARC_START
from groundup.data.readers.code import SOURCE_SUFFIXES
from groundup.data.readers.encoding import wide_encoding
from groundup.data.readers.html import HTML_START
from groundup.data.readers.mail import is_mail
from groundup.data.readers.office import OFFICE_SUFFIXES, RTF_START
from groundup.data.readers.records import CONVERSATIONS, TEXT_KEYS, value_text
from groundup.data.readers.text import END_OF_TEXT

HEAD_BYTES = 1 << 16
"""Bytes at the start of a file that are looked at."""
BZ2_HEAD_BYTES = 1 << 20
"""The first block of a bzip2 file, which holds up to 900 kB, is decompressed whole or not at all."""

ARCHIVE, UNKNOWN_KIND, TROFF, ENCODED = "archive", "unknown_kind", "troff", "encoded"
"""Kinds beside those of sources and CONVERSATIONS: files in a file, and what no reader takes."""
LEFT_OUT_KINDS = frozenset([CONVERSATIONS, UNKNOWN_KIND, TROFF, ENCODED])

BOOK_BYTES = range(100_000, 20_000_000)
"""Plain text of such a size is a book: split at chapters, without the filters for web pages."""
MAX_BOOK_SYMBOLS = 0.3
"""Share of ASCII digits and punctuation in the characters of a book: 0.02 to 0.1 in prose, 0.5 in logs."""

ZIP_MAGIC, GZIP_MAGIC = b"PK\x03\x04", b"\x1f\x8b"
TABLE_SUFFIXES = (".parquet", ".arrow", ".feather", ".csv", ".tsv")
SPREADSHEET_SUFFIXES = (".xlsx", ".xlsm")
MARKUP_SUFFIXES = {".md": "markdown", ".markdown": "markdown", ".mdx": "markdown", ".rst": "rst", ".epub": "books"}
CODE_NAMES = frozenset(
    ["makefile", "dockerfile", "cmakelists.txt", "rakefile", "gemfile", "meson.build", "jenkinsfile"]
)
SETTINGS_SUFFIXES = frozenset([
    ".json", ".xml", ".svg", ".yml", ".yaml", ".toml", ".ini", ".cfg", ".conf", ".lock", ".po", ".pot", ".map", ".pem",
    ".crt", ".key", ".csr", ".geojson", ".sum", ".diff", ".patch", ".ps", ".bib", ".ics", ".vcf",
])  # fmt: skip
"""Text files that hold settings, data or drawings; no reader takes them."""
CONTROL = bytes(set(range(32)) - set(b"\t\n\r\f\b\x1b"))
UNREADABLE_START = b"%!PS"
PDF = re.compile(rb"%PDF-\d")
SUBTITLES = re.compile(
    rb"\A(?:\xef\xbb\xbf)?\s*(?:WEBVTT\b|\[Script Info\]|\d+\s*\n\s*\d+:\d+:\d+[,.]\d+\s*-->|\{\d+\}\{\d+\})"
)

ARRAY = re.compile(rb"\s*\[\s*\{")
PRETTY_OBJECT = re.compile(rb"\s*\{\s*\n")
MIN_ARRAY_TEXT = 50
"""Characters of a text in the first object of an array."""
LONG_JSON_TEXT = re.compile(rf'"(?:{"|".join(TEXT_KEYS)})"\s*:\s*"(?:[^"\\]|\\.){{200}}')
CONVERSATION_START = re.compile(
    r'\s*\{(?:\s*"[^"\n]{1,50}"\s*:\s*(?:"[^"\n]{0,200}"|[\w.]+)\s*,){0,10}\s*"(?:messages|conversations?)"\s*:\s*\['
)
"""A record longer than the head: fields of one line, and then the turns."""
DUMP = re.compile(rb"\A\s*(?:<\?xml[^>]*>\s*)?<mediawiki\b")
RST = re.compile(rb"^\.\. [\w:-]+::|^\.\. _[^:\n]+:|(?<!\S):[\w:+-]+:`[^`\n]+`", re.MULTILINE)
MARKDOWN = re.compile(rb"^#{2,6} \S|^```|\]\(https?://", re.MULTILINE)
TROFF_START = re.compile(rb"\A\s*(?:[.']\s*\\\"|\.(?:TH|Dd|so|de|ie|if|nr|tr)\s)")
TROFF_MACRO = re.compile(rb"^\.(?:TH|SH|Sh|Dd|so|mso)\s", re.MULTILINE)
"""Manual pages begin with a comment or a macro, and have a title or sections, or name another page."""
ENCODED_RUN = re.compile(rb"[A-Za-z0-9+/=_-]{60,}")
MIN_ENCODED_BYTES, MIN_ENCODED_SHARE = 500, 0.9
"""Text in which runs without a space have such a share holds no words: base64, hexadecimal digits, genomes."""
SYMBOLS = bytes(code for code in range(33, 127) if not chr(code).isalpha())
GUTENBERG = re.compile(rb"PROJECT GUTENBERG", re.IGNORECASE)


def head_bytes(name: str) -> int:
    """Number of bytes at the start of a file that `detect_kind` needs."""
    return BZ2_HEAD_BYTES if name.lower().endswith(".bz2") else HEAD_BYTES


def detect_kind(name: str, head: bytes, size: int = 0) -> str:
    """Kind of source, ARCHIVE, or one of LEFT_OUT_KINDS.

    `head`: the first `head_bytes(name)` of the file; `size`: its bytes, 0 if unknown. Content decides before the name.

    >>> detect_kind("notes.txt", b"<!DOCTYPE html><p>Hello"), detect_kind("run", b"#!/usr/bin/env python3")
    ('html', 'code')
    """
    lower = name.lower()
    if head.startswith(ZIP_MAGIC):
        if b"application/epub+zip" in head[:200]:
            return "books" if lower.endswith(".epub") else UNKNOWN_KIND
        is_office = b"[Content_Types].xml" in head or b"vnd.oasis.opendocument" in head[:200]
        if is_office and (b"word/document.xml" in head or b"opendocument.text" in head[:200]):
            return "office"
        if lower.endswith((*OFFICE_SUFFIXES, *SPREADSHEET_SUFFIXES)):
            return "table" if lower.endswith(SPREADSHEET_SUFFIXES) else "office"
        return ARCHIVE if lower.endswith((".zip", ".whl", ".jar", ".egg")) else UNKNOWN_KIND
    if head[257:262] == b"ustar" or (lower.endswith(ARCHIVE_SUFFIXES) and not lower.endswith((".zip", ".whl"))):
        return ARCHIVE
    plain, text = _decompressed_head(name, head)
    if text.startswith((b"WARC/", ARC_START)):
        return "web"
    if PDF.match(text.lstrip()):
        return "pdf"
    if text.startswith(RTF_START):
        return "office"
    if plain.lower().endswith(TABLE_SUFFIXES):
        return "table"
    narrow = _as_utf8(text)
    if text[257:262] == b"ustar" or text.startswith(GZIP_MAGIC) or not _is_text(narrow):
        return UNKNOWN_KIND
    return _text_kind(PurePosixPath(plain.lower()), narrow.removeprefix(b"\xef\xbb\xbf"), 0 if text != head else size)


def _decompressed_head(name: str, head: bytes) -> tuple[str, bytes]:
    """Name without compression suffix, and the first bytes of the content."""
    plain, stream = open_decompressed(name, io.BytesIO(head))
    if plain == name:
        return name, head
    parts: list[bytes] = []
    try:
        while sum(map(len, parts)) < HEAD_BYTES and (part := stream.read(1 << 12)):
            parts.append(part)
    except Exception:  # the head ends within a block, or is damaged: each library has errors of its own
        pass
    return plain, b"".join(parts)


def _is_text(head: bytes) -> bool:
    if not head.strip() or head.startswith(UNREADABLE_START) or b"\0" in head:
        return False
    return len(head) - len(head.translate(None, CONTROL)) <= len(head) // 200


def _text_kind(path: PurePosixPath, head: bytes, size: int) -> str:
    if DUMP.match(head):
        return "wikipedia"
    if HTML_START.match(head) or path.suffix in (".html", ".htm", ".xhtml"):
        return "html"
    if SUBTITLES.match(head) or path.suffix in (".srt", ".vtt", ".ass", ".ssa"):
        return "subtitles"
    if path.suffix in (".mbox", ".eml") or is_mail(head):
        return "mail"
    if path.suffix == ".fodt":
        return "office"
    if path.suffix in MARKUP_SUFFIXES:
        return MARKUP_SUFFIXES[path.suffix]
    if path.suffix in SOURCE_SUFFIXES or path.name in CODE_NAMES or head.startswith(b"#!"):
        return "code"
    if (record := _first_record(head)) is not None:
        return CONVERSATIONS if is_conversation(record) else "jsonl"
    if path.suffix in SETTINGS_SUFFIXES or head.lstrip().startswith(b"<?xml"):
        return UNKNOWN_KIND
    if TROFF_START.match(head) and TROFF_MACRO.search(head):
        return TROFF
    if len(head) >= MIN_ENCODED_BYTES and sum(map(len, ENCODED_RUN.findall(head))) >= MIN_ENCODED_SHARE * len(head):
        return ENCODED
    if b"<|" in head and END_OF_TEXT.search(head.decode("utf-8", "replace")):
        return "text"
    if GUTENBERG.search(head) or (size in BOOK_BYTES and _symbol_share(head) <= MAX_BOOK_SYMBOLS):
        return "books"
    if len(RST.findall(head)) >= 2:
        return "rst"
    return "markdown" if len(MARKDOWN.findall(head)) >= 3 else "text"


def _symbol_share(head: bytes) -> float:
    characters = head.translate(None, b" \t\r\n")
    return 1 - len(characters.translate(None, SYMBOLS)) / max(len(characters), 1)


def _first_of_array(head: str) -> dict[str, Any] | None:
    """The first object that has a text or a conversation: settings and numbers are no documents."""
    start = head.find("{", head.find("[") + 1)
    try:
        record, _ = json.JSONDecoder().raw_decode(head, start)
    except (ValueError, RecursionError):
        record = {"messages": [{}]} if CONVERSATION_START.match(head, start) else None
    if isinstance(record, dict) and is_conversation(record):
        return record
    texts = [value_text(value) for value in record.values()] if isinstance(record, dict) else []
    is_text = any(text and len(text) >= MIN_ARRAY_TEXT and " " in text for text in texts)
    return {} if is_text or LONG_JSON_TEXT.search(head) else None


def _as_utf8(head: bytes) -> bytes:
    wide = wide_encoding(head)
    return head[: len(head) // 4 * 4].decode(wide, "replace").encode() if wide else head


def _first_record(head: bytes) -> dict[str, Any] | None:
    """The first line as a JSON object, or the first of an array; one longer than the head counts if it starts like one."""
    if ARRAY.match(head) or PRETTY_OBJECT.match(head):
        return _first_of_array(head.decode("utf-8", "replace"))
    line, end, _ = head.lstrip().partition(b"\n")
    if not line.startswith(b"{"):
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        if end or not re.match(rb'\{\s*"[^"\n]{1,100}"\s*:', line) or len(head) < HEAD_BYTES:
            return None
        record = {"messages": [{}]} if CONVERSATION_START.match(line.decode("utf-8", "replace")) else {}
    return record if isinstance(record, dict) else None
