"""What deduplication holds, known before it starts, and into how many passes it must be cut to stay in its limit."""

from groundup.artifacts.errors import UserError

PROGRAM_BYTES = 350e6
"""The interpreter with its libraries."""
BYTES_PER_DOCUMENT = 28
"""A cluster's root twice (8 + 8) while roots are shortened, the verdict and marks (1 + 3), and numbers to compare with (8)."""
BYTES_PER_KEY = 60
"""A key and its document's number (16) as they are gathered and once joined, sorted (16), and the pairs found."""
MIN_KEYS_PER_PASS = 1 << 16
"""Of one pass: with fewer there would be too many passes."""


def num_passes(documents: int, keys: int, limit_bytes: float) -> int:
    """Into how many parts `keys` keys of `documents` documents must be cut for one part to fit into the limit.

    Raises UserError when no number of parts is enough.
    """
    free = limit_bytes - PROGRAM_BYTES - BYTES_PER_DOCUMENT * documents
    if free < BYTES_PER_KEY * min(keys, MIN_KEYS_PER_PASS):
        least = peak_bytes(documents, min(keys, MIN_KEYS_PER_PASS), 1)
        raise UserError(
            f"data.memory_gigabytes = {limit_bytes / 1e9:g}: deduplication of {documents:,} documents needs {least / 1e9:.2g}",
            hint="allow more, or make a corpus of each part and name the earlier ones in data.dedup_against",
        )
    return max(1, -(-BYTES_PER_KEY * keys // int(free)))


def peak_bytes(documents: int, keys: int, parts: int) -> float:
    """Bytes held at most, the program's own included."""
    return PROGRAM_BYTES + BYTES_PER_DOCUMENT * documents + BYTES_PER_KEY * keys / parts
