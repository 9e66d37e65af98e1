"""The two things that cleaning does to a text: change it, or judge it."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Mapper:
    """Gives a text another form. What it takes away is counted under its name."""

    name: str
    apply: Callable[[str], str]


@dataclass(frozen=True)
class Filter:
    """Lets a text pass (None) or says why not. The reason stands behind the rule's name in the funnel."""

    name: str
    drop_reason: Callable[[str], str | None]


CleaningStep = Mapper | Filter
