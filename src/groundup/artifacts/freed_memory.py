"""Memory that was freed, back to the system."""

import ctypes
from contextlib import suppress


def release_freed_memory() -> None:
    """Give freed blocks back to the system, which glibc otherwise keeps for this process; nothing with another C library."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
