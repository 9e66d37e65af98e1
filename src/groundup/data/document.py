"""Documents and dropped documents: the values that readers and filters return."""

from dataclasses import dataclass


@dataclass(slots=True)
class Document:
    """One text. `id` is unique within its source (title, URL, member path) and independent of local paths; `encoding`:
    character set of the file and how it was chosen, "" if the format sets it.
    """

    text: str
    id: str
    encoding: str = ""


@dataclass(slots=True)
class DroppedDocument:
    """A rejected document with the reason. `text` is a sample for inspection and may be empty."""

    reason: str
    id: str
    text: str = ""


ReadResult = Document | DroppedDocument
"""Element type of a reader's iterator."""
