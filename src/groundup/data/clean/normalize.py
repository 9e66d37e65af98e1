"""Unicode normalization: NFC, plain spaces and line ends, no control characters, repaired mojibake."""

import re
import unicodedata

LINE_ENDS = re.compile("\r\n?|\u2028|\u2029|\x85|\x0b|\x0c")
SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff\ufff9-\ufffb]|[\ud800-\udfff]"
)
MANY_LINES = re.compile(r"\n{4,}")
MOJIBAKE = re.compile(
    "[\u00c2-\u00f4][\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]{1,3}"
)
"""A UTF-8 sequence decoded as Windows-1252: a lead byte and one to three continuation bytes."""

PLAIN_ASCII = bytes(range(0x20, 0x7F)) + b"\n\t"


def normalize(text: str) -> str:
    """Normalize a text. Idempotent; visible characters change only where an encoding is broken.

    NFC and not NFKC: compatibility forms would turn x² into x2 and change code.
    """
    # Candidates are rare: searching only the characters outside printable ASCII is fast.
    rare = text.encode("utf-8", "surrogatepass").translate(None, PLAIN_ASCII).decode("utf-8", "surrogatepass")
    irregular = any(pattern.search(rare) for pattern in (LINE_ENDS, SPACES, INVISIBLE, MOJIBAKE))
    if irregular or not unicodedata.is_normalized("NFC", text):
        text = _repair(text)
    if " \n" in text or "\t\n" in text or text.endswith((" ", "\t")):
        text = "\n".join(line.rstrip(" \t") for line in text.split("\n"))
    if "\n\n\n\n" in text:
        text = MANY_LINES.sub("\n\n\n", text)
    return text.strip("\n")


def _repair(text: str) -> str:
    text = SPACES.sub(" ", LINE_ENDS.sub("\n", text))
    while True:  # a removal may join characters that then compose or decode
        repaired = unicodedata.normalize("NFC", INVISIBLE.sub("", MOJIBAKE.sub(_decode_mojibake, text)))
        if repaired == text:
            return text
        text = repaired


def _decode_mojibake(match: re.Match[str]) -> str:
    try:
        return match.group().encode("cp1252").decode("utf-8")
    except UnicodeError:
        return match.group()
