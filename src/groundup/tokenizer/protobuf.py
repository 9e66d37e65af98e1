"""Reader of protocol buffers, for SentencePiece models: a message is a sequence of (field number, value).

protobuf.dev, "Encoding": a key is a varint of field number and wire type; wire type 0 is a varint, 1 eight bytes, 2 a
length and that many bytes, 5 four bytes.
"""

import struct
from collections.abc import Iterator

FieldValue = int | bytes


def parse_fields(message: bytes) -> Iterator[tuple[int, FieldValue]]:
    """The fields of a message in order; values are integers or raw bytes. Raises ValueError for invalid messages."""
    position = 0
    while position < len(message):
        key, position = _read_varint(message, position)
        wire_type = key & 7
        if wire_type == 0:
            value, position = _read_varint(message, position)
            yield key >> 3, value
            continue
        if wire_type == 2:
            size, position = _read_varint(message, position)
        elif wire_type in (1, 5):
            size = 8 if wire_type == 1 else 4
        else:
            raise ValueError(f"wire type {wire_type} at byte {position}")
        if position + size > len(message):
            raise ValueError(f"a field of {size} bytes at byte {position} of {len(message)}")
        yield key >> 3, message[position : position + size]
        position += size


def decode_float(value: FieldValue) -> float:
    """The value of a `float` field."""
    if not isinstance(value, bytes) or len(value) != 4:
        raise ValueError("expected four bytes")
    return struct.unpack("<f", value)[0]


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(message) or shift > 63:
            raise ValueError(f"unterminated varint at byte {position}")
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
