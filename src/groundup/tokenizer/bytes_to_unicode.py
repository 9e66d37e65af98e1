"""GPT-2's mapping of bytes to printable letters, in which `tokenizer.json` spells byte-level tokens.

Printable bytes map to themselves; the others, such as the space, to the letters from U+0100 on
(openai/gpt-2 src/encoder.py, bytes_to_unicode).
"""

PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
OTHERS = [byte for byte in range(256) if byte not in set(PRINTABLE)]

BYTE_TO_UNICODE = dict(zip(PRINTABLE, map(chr, PRINTABLE), strict=True)) | {
    byte: chr(0x100 + index) for index, byte in enumerate(OTHERS)
}
UNICODE_TO_BYTE = {letter: byte for byte, letter in BYTE_TO_UNICODE.items()}

BYTE_VOCABULARY = [bytes([UNICODE_TO_BYTE[letter]]) for letter in sorted(UNICODE_TO_BYTE)]
"""The 256 single bytes in the order of their letters, which is the order of their ids in a vocabulary."""


def to_unicode(token: bytes) -> str:
    """b" a" -> "Ġa"."""
    return token.decode("latin-1").translate(BYTE_TO_UNICODE)


def from_unicode(token: str) -> bytes:
    """ "Ġa" -> b" a". Raises KeyError for a letter that maps to no byte."""
    return bytes(UNICODE_TO_BYTE[letter] for letter in token)
