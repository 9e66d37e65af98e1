"""GPT-2's way to write any byte as one printable letter, in which `tokenizer.json` spells byte-level tokens.

Printable bytes stand for themselves; the others, such as the space, take the letters from U+0100 on
(openai/gpt-2 src/encoder.py, bytes_to_unicode).
"""

PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
OTHERS = [byte for byte in range(256) if byte not in set(PRINTABLE)]

LETTER_OF = dict(zip(PRINTABLE, map(chr, PRINTABLE), strict=True)) | {
    byte: chr(0x100 + index) for index, byte in enumerate(OTHERS)
}
BYTE_OF = {letter: byte for byte, letter in LETTER_OF.items()}

BYTES_IN_ORDER = [bytes([BYTE_OF[letter]]) for letter in sorted(BYTE_OF)]
"""The 256 single bytes in the order of their letters, which is the order of their ids."""


def to_letters(token: bytes) -> str:
    """b" a" -> "Ġa"."""
    return "".join(LETTER_OF[byte] for byte in token)


def from_letters(token: str) -> bytes:
    """ "Ġa" -> b" a". Raises KeyError when the token is not spelt in byte letters."""
    return bytes(BYTE_OF[letter] for letter in token)
