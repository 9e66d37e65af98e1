"""Character encodings: one decoder for text files and pages, with missing or wrong declarations.

The order is: byte order mark, UTF-16 and UTF-32 without one, valid UTF-8, UTF-8 with damage, declaration, detection.
"""

import codecs
import re
from collections import Counter
from dataclasses import dataclass

BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
MARKUP_CHARSET = re.compile(
    rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([A-Za-z0-9_.:-]{2,40})|<\?xml[^>]{0,100}?encoding=["']([A-Za-z0-9_.:-]{2,40})""",
    re.IGNORECASE,
)
CODING_COMMENT = re.compile(rb"\A(?:[^\n]{0,200}\n)?[^\n]{0,200}?coding[:=][ \t]*([A-Za-z0-9_.-]{2,40})")
"""A declaration in the first two lines (PEP 263; Emacs and Vim have the same form)."""

DECLARATION_BYTES = 4096
SUPERSETS = {
    "gbk": "gb18030", "gb2312": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949", "big5": "big5hkscs", "iso8859-1": "cp1252",
    "ascii": "cp1252", "iso8859-9": "cp1254", "iso8859-11": "cp874", "tis-620": "cp874",
}  # fmt: skip
"""Encodings that are read as a superset, as browsers do (https://encoding.spec.whatwg.org/#names-and-labels)."""

WINDOWS_SIBLINGS = {"iso8859-2": "cp1250", "iso8859-7": "cp1253", "iso8859-8": "cp1255", "iso8859-5": "cp1251"}
"""For text with bytes that are control characters in the ISO encoding."""

CONTROLS = re.compile("[\x80-\x84\x86-\x9f]")
TEXT_CODEC = re.compile(r"(?:cp|iso8859|mac-|koi8|big5|gb|euc_|shift_|johab|tis-|iso2022_|ptcp)[\w-]*")
"""Names of Python's codecs that are character sets ("hex" and "punycode" are not)."""

ESCAPES = (b"\x1b$", b"\x1b(")
"""Designations of ISO 2022, the only encodings read here whose texts are also valid ASCII."""

WIDE_SAMPLE_BYTES = 1 << 13
MIN_WIDE_BYTES = 8
MIN_SPACES = 0.003
"""Of the characters of a text; Chinese has only line breaks."""

EAST_ASIAN = re.compile("[\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]")
MAX_INVALID = 0.001
MIN_VALID_PER_INVALID = 2
"""Characters beyond ASCII for each invalid sequence in damaged UTF-8; other encodings rarely form any."""
ASCII = bytes(range(128))
MIN_HIGH_BYTES = 3
"""Different bytes beyond ASCII for a detection: one accented letter in an English text says nothing."""

MAX_WESTERN_HIGH_BYTES = 0.4
"""Of letters; a text in a Latin alphabet has fewer beyond ASCII."""


@dataclass(frozen=True, slots=True)
class DecodedText:
    """A decoded text. `encoding`: its character set, and how it was chosen unless it is valid UTF-8."""

    text: str
    encoding: str = "utf-8"


def decode_bytes(data: bytes, charset: str | None = None) -> DecodedText:
    """Decode a text file or page. `charset`: from the HTTP header, or of an earlier part of the file.

    >>> decode_bytes("# coding: koi8-r\\nпривет".encode("koi8-r")).encoding
    'koi8-r, declared'
    """
    for mark, name in BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return DecodedText(data.decode(name, "replace"), name)
    if (wide := wide_encoding(data)) is not None:
        return DecodedText(data.decode(wide, "replace"), f"{wide}, detected")
    if any(escape in data for escape in ESCAPES) and (found := _decode_iso_2022(data)):
        return found
    try:
        return DecodedText(data.decode("utf-8"))
    except UnicodeDecodeError:
        text = data.decode("utf-8", "replace")
    invalid = text.count("\ufffd")
    valid = len(text) - len(text.encode("ascii", "ignore")) - invalid
    if valid >= MIN_VALID_PER_INVALID * invalid:
        return DecodedText(text, "utf-8, damaged")
    for name in _declared_charsets(data, charset):
        if (found := _decode_as(data, name)) is not None:
            return DecodedText(found, f"{name}, declared")
    detected = _detect(data)
    for name in (detected, "cp1252"):
        if name and (found := _decode_as(data, name)) is not None:
            return DecodedText(found, f"{name}, detected")
    return DecodedText(text, "utf-8, damaged")


def wide_encoding(head: bytes) -> str | None:
    """UTF-16 or UTF-32: by the byte order mark or, without one, by what the first bytes decode to; None for any other
    encoding, and for binary data.
    """
    if mark := next((name for mark, name in BYTE_ORDER_MARKS[1:] if head.startswith(mark)), None):
        return mark
    sample = head[:WIDE_SAMPLE_BYTES]
    if b"\0" not in sample or len(sample) < MIN_WIDE_BYTES:
        return None
    for name in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"):
        try:
            text = codecs.getincrementaldecoder(name)().decode(sample)
        except UnicodeDecodeError:
            continue
        if _is_written(text):
            return name
    return None


def _is_written(text: str) -> bool:
    """Visible characters and spaces, and those beyond ASCII mostly of two blocks or Chinese, Japanese and Korean ones."""
    spaces = sum(character in " \n\u3000" for character in text)
    visible = sum(character.isprintable() or character in "\t\n\r\f" for character in text)
    if spaces < MIN_SPACES * len(text) or visible < len(text) - len(text) // 200:
        return False
    others = [character for character in text if character > "\x7f"]
    blocks = Counter(ord(character) >> 8 for character in others if not EAST_ASIAN.match(character))
    strange = blocks.total() - sum(count for _, count in blocks.most_common(2))
    return strange <= len(others) // 10


def _declared_charsets(data: bytes, charset: str | None) -> list[str]:
    """Known names of declared character sets. Western ones come last, since they are servers' defaults, and are left out
    of texts that are not Western."""
    head = data[:DECLARATION_BYTES]
    found = MARKUP_CHARSET.search(head) or CODING_COMMENT.match(head)
    inner = next(filter(None, found.groups())).decode("ascii") if found else None
    names = [known for name in (charset, inner) if name and (known := _codec_name(name))]
    high = sum(byte >= 0xC0 for byte in head)
    letters = high + sum(65 <= byte & 0xDF <= 90 for byte in head)
    is_western = high <= MAX_WESTERN_HIGH_BYTES * letters
    others = [name for name in names if name != "cp1252"]
    return list(dict.fromkeys([*others, *(["cp1252"] if is_western and "cp1252" in names else [])]))


def _codec_name(name: str) -> str | None:
    """Python's name of a character set, as superset; None if unknown, or UTF-8, which was tried."""
    from resiliparse.parse.encoding import map_encoding_to_html5

    known = map_encoding_to_html5(name.strip().lower(), False)
    if known is None:
        try:
            known = codecs.lookup(name).name
        except (LookupError, ValueError):
            return None
    known = SUPERSETS.get(known, known)
    return known if TEXT_CODEC.fullmatch(known) else None


def _detect(data: bytes) -> str | None:
    """Detection by uchardet, the detector of Firefox; None if too little is beyond ASCII."""
    from resiliparse.parse.encoding import detect_encoding

    if len(set(data.translate(None, ASCII))) < MIN_HIGH_BYTES and not any(escape in data for escape in ESCAPES):
        return None
    found = detect_encoding(data, html5_compatible=False)
    return _codec_name(found) if found else None


def _decode_as(data: bytes, name: str) -> str | None:
    """The text if at most one character in 1,000 is invalid, else None."""
    try:
        text = data.decode(name, "replace")
    except (LookupError, UnicodeError):
        return None
    if name in WINDOWS_SIBLINGS and CONTROLS.search(text):
        text = data.decode(WINDOWS_SIBLINGS[name], "replace")
    return text if text.count("\ufffd") <= MAX_INVALID * len(text) else None


def _decode_iso_2022(data: bytes) -> DecodedText | None:
    name = _detect(data)
    if name is None or not name.startswith("iso2022"):
        return None
    try:
        return DecodedText(data.decode(name), f"{name}, detected")
    except UnicodeDecodeError:
        return None
