"""Types of cleaning steps: mappers change a text, filters drop it."""

from collections.abc import Callable
from dataclasses import dataclass

FilterFunction = Callable[[str], str | None]
"""Reason to drop a text, or None to keep it."""


@dataclass(frozen=True)
class Mapper:
    """Changes a text. The bytes it removes are counted under its name."""

    name: str
    apply: Callable[[str], str]


@dataclass(frozen=True)
class Filter:
    """Drops or keeps a text. Documents are counted under "NAME: REASON"."""

    name: str
    drop_reason: FilterFunction


CleaningStep = Mapper | Filter
