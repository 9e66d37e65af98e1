"""Freed memory stays with the process: a step takes the same tensors again and again.

The C library gives large blocks back as soon as they are freed, and the kernel hands out the next ones page by page, each
filled with zeros first. On a CPU that takes a fifth of a training step. Nothing that is computed changes.
"""

import ctypes

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
"""Names of what `mallopt` sets (glibc's malloc.h)."""

MAX_OPTION_VALUE = 2**31 - 1
"""The largest that it takes."""

TOP_PAD_BYTES = 2**28
"""Bytes by which the heap grows at least."""


def disable_malloc_trim() -> bool:
    """Let this process keep what it frees; says whether the C library can (glibc). Memory in use is as before."""
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or none that can be asked
        return False
    wishes = {MMAP_THRESHOLD: MAX_OPTION_VALUE, TRIM_THRESHOLD: MAX_OPTION_VALUE, TOP_PAD: TOP_PAD_BYTES}
    answers = [set_option(name, value) for name, value in wishes.items()]
    return answers == [1] * len(wishes)
