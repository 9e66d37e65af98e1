"""One spelling for what looks the same: Unicode's composed form, plain spaces, no control characters, no
mojibake.
"""

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
"""A UTF-8 sequence that was read as Windows-1252: a lead byte's character and one to three of continuation
bytes.
"""


PLAIN_ASCII = bytes(range(0x20, 0x7F)) + b"\n\t"


def normalize(text: str) -> str:
    """Repair and normalise. Idempotent; changes no visible character but those of broken encodings.

    NFC and not NFKC: compatibility forms would turn x² into x2 and code into other code.
    """
    # What may have to change is rare, and found fast among what is left without the ordinary characters.
    rare = text.encode("utf-8", "surrogatepass").translate(None, PLAIN_ASCII).decode("utf-8", "surrogatepass")
    if any(
        form.search(rare) for form in (LINE_ENDS, SPACES, INVISIBLE, MOJIBAKE)
    ) or not unicodedata.is_normalized("NFC", text):
        text = _repair(text)
    if " \n" in text or "\t\n" in text or text.endswith((" ", "\t")):
        text = "\n".join(line.rstrip(" \t") for line in text.split("\n"))
    if "\n\n\n\n" in text:
        text = MANY_LINES.sub("\n\n\n", text)
    return text.strip("\n")


def _repair(text: str) -> str:
    text = SPACES.sub(" ", LINE_ENDS.sub("\n", text))
    while True:  # what is taken out may bring together what then composes or decodes
        repaired = unicodedata.normalize("NFC", INVISIBLE.sub("", MOJIBAKE.sub(_decode_mojibake, text)))
        if repaired == text:
            return text
        text = repaired


def _decode_mojibake(match: re.Match[str]) -> str:
    try:
        return match.group().encode("cp1252").decode("utf-8")
    except UnicodeError:
        return match.group()
