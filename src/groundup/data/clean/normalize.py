"""Unicode normalization: NFC, plain spaces and line ends, no control characters, repaired mojibake."""

import re
import unicodedata

LINE_ENDS = re.compile("\r\n?|\u2028|\u2029|\x85|\x0b|\x0c")
SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
SURROGATES = re.compile("[\ud800-\udfff]")
INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff\ufff9-\ufffb]|[\ud800-\udfff]"
)
MANY_LINES = re.compile(r"\n{4,}")
MOJIBAKE = re.compile(
    "[\u00c2-\u00f4][\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]"
)
"""Necessary condition of UTF-8 decoded as Windows-1252: a lead byte and a continuation byte."""

PLAIN_ASCII = bytes(range(0x20, 0x7F)) + b"\n\t"
MAX_REPAIRS = 4


def normalize(text: str) -> str:
    """Normalize a text. Idempotent; visible characters change only where an encoding is broken.

    NFC and not NFKC: compatibility forms would turn x² into x2.
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


def normalize_code(text: str) -> str:
    """Plain line ends, no byte order mark, no NULs and surrogates; all else, form feeds and spaces included, may have a
    meaning in code.
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = text.removeprefix("\ufeff").replace("\0", "")
    return text if text.isascii() else SURROGATES.sub("", text)


def _repair(text: str) -> str:
    for _ in range(MAX_REPAIRS):  # a removal may join characters that then compose
        repaired = LINE_ENDS.sub("\n", repair_mojibake(text))
        repaired = unicodedata.normalize("NFC", INVISIBLE.sub("", SPACES.sub(" ", repaired)))
        if repaired == text:
            break
        text = repaired
    return text


def repair_mojibake(text: str) -> str:
    """The text with the lines repaired that ftfy (Speer 2019) finds to be UTF-8 in a wrong decoding."""
    if not MOJIBAKE.search(text):
        return text
    return "\n".join(_repair_line(line) if MOJIBAKE.search(line) else line for line in text.split("\n"))


def _repair_line(line: str) -> str:
    import ftfy

    return ftfy.fix_encoding(line, restore_byte_a0=False, replace_lossy_sequences=False, fix_c1_controls=False)
