"""What a reader may be told, and the bounds that it keeps whatever it is given."""

from dataclasses import dataclass
from typing import IO, Literal

MAX_BYTES = 64 << 20
"""Bytes of one document; a file beyond this is nothing that anyone wrote as one text."""

MAX_PAGE_BYTES = 4 << 20
"""Bytes of one HTML page or source file."""


@dataclass(frozen=True)
class ReaderOptions:
    """Set by the recipe."""

    text_column: str = "text"
    html_extractor: Literal["trafilatura", "resiliparse"] = "trafilatura"
    licenses: frozenset[str] = frozenset()


def read_bounded(stream: IO[bytes], limit: int) -> bytes | None:
    """Everything in the stream, or None when that is more than `limit` bytes. What follows is never
    decompressed.
    """
    parts, size = [], 0
    while part := stream.read(min(1 << 20, limit + 1 - size)):
        parts.append(part)
        size += len(part)
        if size > limit:
            return None
    return b"".join(parts)
