"""Character encodings: decode text files and web pages with missing or wrong declarations."""

import codecs
import re

BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
META_CHARSET = re.compile(
    rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([A-Za-z0-9_.:-]{2,40})|<\?xml[^>]{0,100}?encoding=["']([A-Za-z0-9_.:-]{2,40})""",
    re.IGNORECASE,
)
SUPERSET_ENCODINGS = {"gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949", "big5": "big5hkscs"}
"""Encodings that browsers read as a superset (https://encoding.spec.whatwg.org/#names-and-labels)."""


def decode_text(data: bytes) -> str:
    """Decode a text file by byte order mark, else as UTF-8, else as Windows-1252."""
    for mark, encoding in BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return data.decode(encoding, "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def decode_page(data: bytes, charset: str | None) -> str:
    """Decode a web page by byte order mark, HTTP charset, charset in the page, or detection, in this order."""
    for mark, encoding in BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return data.decode(encoding, "replace")
    found = META_CHARSET.search(data, 0, 4096)
    declared = (found.group(1) or found.group(2)).decode("ascii", "replace") if found else None
    for name in (charset, declared, "utf-8"):
        if name and (text := _decode_strict(data, name)) is not None:
            return text
    from resiliparse.parse.encoding import detect_encoding

    name = detect_encoding(data) or "cp1252"
    text = _decode_strict(data, name)
    return text if text is not None else data.decode("utf-8", "replace")


def _decode_strict(data: bytes, name: str) -> str | None:
    """The text if at most one character in 1,000 is invalid, else None.

    Only encodings that browsers know are accepted: Python has others ("hex", "punycode").
    """
    from resiliparse.parse.encoding import map_encoding_to_html5

    known = map_encoding_to_html5(name.strip().lower(), False)
    if known is None:
        return None
    try:
        text = data.decode(SUPERSET_ENCODINGS.get(known, known), "replace")
    except (LookupError, UnicodeError):
        return None
    return text if text.count("\ufffd") * 1000 <= len(text) else None
