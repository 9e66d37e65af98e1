"""The bytes that a vocabulary entry stands for: byte-level letters, SentencePiece's byte tokens and its space."""

import re

from groundup.tokenizer.bytes_to_unicode import from_unicode

SPACE = "▁"
"""SentencePiece's letter for a space."""

BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


def entry_bytes(token: str, *, byte_level: bool) -> bytes:
    """The bytes of an ordinary vocabulary entry.

    >>> entry_bytes("Ġa", byte_level=True), entry_bytes("<0xE6>", byte_level=False), entry_bytes("▁a", byte_level=False)
    (b' a', b'\\xe6', b' a')
    """
    if byte_level:
        return from_unicode(token)
    if BYTE_TOKEN.fullmatch(token):
        return bytes([int(token[3:5], 16)])
    return token.replace(SPACE, " ").encode()
