"""What deduplication holds, known before it starts, and into how many passes it must be cut to stay in its limit."""

PROGRAM_BYTES = 350e6
"""The interpreter with its libraries."""
DOCUMENT_BYTES = 25
"""A cluster's root twice (8 + 8) while roots are shortened, the verdict, and numbers to compare with (8)."""
KEY_BYTES = 60
"""A key and its document's number (16) as they are gathered and once joined, sorted (16), and the pairs found."""


def passes(documents: int, keys: int, limit_bytes: float) -> int:
    """Into how many parts `keys` keys of `documents` documents must be cut for one part to fit into the limit."""
    free = max(limit_bytes - PROGRAM_BYTES - DOCUMENT_BYTES * documents, KEY_BYTES * (1 << 16))
    return max(1, -(-KEY_BYTES * keys // int(free)))


def held(documents: int, keys: int, parts: int) -> float:
    """Bytes held at most, the program's own included."""
    return PROGRAM_BYTES + DOCUMENT_BYTES * documents + KEY_BYTES * keys / parts
