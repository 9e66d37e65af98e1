"""Just enough of protocol buffers to read a SentencePiece model: a message is a row of (number, value) fields.

protobuf.dev, "Encoding": a key is a varint of number and wire type; 0 is a varint, 1 eight bytes, 2 a length and that
many bytes, 5 four bytes.
"""

import struct
from collections.abc import Iterator

FieldValue = int | bytes


def parse_fields(message: bytes) -> Iterator[tuple[int, FieldValue]]:
    """The fields of a message in their order: integers, or the raw bytes of everything else.

    Raises ValueError when it is no message.
    """
    place = 0
    while place < len(message):
        key, place = _read_varint(message, place)
        kind = key & 7
        if kind == 0:
            value, place = _read_varint(message, place)
            yield key >> 3, value
            continue
        if kind == 2:
            size, place = _read_varint(message, place)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind} at byte {place}")
        if place + size > len(message):
            raise ValueError(f"a field of {size} bytes at byte {place} of {len(message)}")
        yield key >> 3, message[place : place + size]
        place += size


def decode_float(value: FieldValue) -> float:
    """A `float` field."""
    if not isinstance(value, bytes) or len(value) != 4:
        raise ValueError("expected four bytes")
    return struct.unpack("<f", value)[0]


def _read_varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if place >= len(message) or shift > 63:
            raise ValueError(f"a number that does not end at byte {place}")
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
