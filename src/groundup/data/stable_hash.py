"""Hashes that are the same on every machine and in every process."""

import hashlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `groundup plan` hashes text, and is to start at once
    from numpy.typing import NDArray


def hash_bytes(data: bytes) -> int:
    """64-bit BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def hash_text(text: str) -> int:
    """64-bit BLAKE2b of the UTF-8 bytes; lone surrogates, which broken input may hold, are allowed."""
    return hash_bytes(text.encode("utf-8", "surrogatepass"))


def hash_fraction(text: str, seed: int = 0) -> float:
    """Uniform number in [0, 1) from `seed` and `text`."""
    digest = hashlib.sha256(f"{seed}\n{text}".encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def splitmix64(values: "NDArray[Any]") -> "NDArray[Any]":
    """Finalizer of SplitMix64 (Steele, Lea and Flood 2014): a bijection of uint64 that mixes all bits."""
    import numpy

    values = (values ^ (values >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
    return values ^ (values >> numpy.uint64(31))
