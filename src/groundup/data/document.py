"""What flows through this chapter: a document, or the reason why there is none."""

from dataclasses import dataclass


@dataclass(slots=True)
class Document:
    """One text. `id` names it within its source: a title, an address, a path; never where it lies on this
    machine.
    """

    text: str
    id: str


@dataclass(slots=True)
class DroppedDocument:
    """A document that does not pass, and why. `text` is as it was then, for people to look at; it may be
    empty.
    """

    reason: str
    id: str
    text: str = ""


ReadResult = Document | DroppedDocument
"""What a reader yields."""
