"""Reader options and size limits."""

from dataclasses import dataclass
from typing import IO, Literal

MAX_BYTES = 64 << 20
"""Limit for one document."""

MAX_PAGE_BYTES = 4 << 20
"""Limit for one HTML page or source file."""


@dataclass(frozen=True)
class ReaderOptions:
    """Options of readers, set by the recipe."""

    text_column: str = "text"
    html_extractor: Literal["trafilatura", "resiliparse"] = "trafilatura"
    delimiter: str | None = None
    licenses: frozenset[str] = frozenset()
    held_out_conversations: float = 0.0
    """Fraction of conversations that fine-tuning holds out: they are dropped."""
    by_content: bool = False
    """The file was chosen by its content: any name, and any text column if text_column is missing."""


def read_bounded(stream: IO[bytes], limit: int) -> bytes | None:
    """The whole stream, or None if it is longer than `limit` bytes; the rest is not decompressed."""
    parts, size = [], 0
    while part := stream.read(min(1 << 20, limit + 1 - size)):
        parts.append(part)
        size += len(part)
        if size > limit:
            return None
    return b"".join(parts)
