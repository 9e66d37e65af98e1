"""What deduplication holds, known before it starts, and into how many passes it must be cut to stay in its limit."""

from groundup.artifacts.errors import UserError

PROGRAM_BYTES = 350e6
"""The interpreter with its libraries."""
DOCUMENT_BYTES = 28
"""A cluster's root twice (8 + 8) while roots are shortened, the verdict and marks (1 + 3), and numbers to compare with (8)."""
KEY_BYTES = 60
"""A key and its document's number (16) as they are gathered and once joined, sorted (16), and the pairs found."""
LEAST_KEYS = 1 << 16
"""Of one pass: with fewer there would be too many passes."""


def passes(documents: int, keys: int, limit_bytes: float) -> int:
    """Into how many parts `keys` keys of `documents` documents must be cut for one part to fit into the limit.

    Raises UserError when no number of parts is enough.
    """
    free = limit_bytes - PROGRAM_BYTES - DOCUMENT_BYTES * documents
    if free < KEY_BYTES * min(keys, LEAST_KEYS):
        least = held(documents, min(keys, LEAST_KEYS), 1)
        raise UserError(
            f"data.memory_gigabytes = {limit_bytes / 1e9:g}: deduplication of {documents:,} documents needs {least / 1e9:.2g}",
            hint="allow more, or make a corpus of each part and name the earlier ones in data.previous",
        )
    return max(1, -(-KEY_BYTES * keys // int(free)))


def held(documents: int, keys: int, parts: int) -> float:
    """Bytes held at most, the program's own included."""
    return PROGRAM_BYTES + DOCUMENT_BYTES * documents + KEY_BYTES * keys / parts
