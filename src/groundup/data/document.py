"""Documents and dropped documents: the values that readers and filters return."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Document:
    """One text. `id` is unique within its source (title, URL, member path) and independent of local paths; `encoding`:
    character set of the file and how it was chosen, "" if the format sets it. `left_out` counts what the reader had to leave
    out of the text, by name. `license`: SPDX name or expression, "" if it is not known.
    """

    text: str
    id: str
    encoding: str = ""
    left_out: dict[str, int] = field(default_factory=dict)
    license: str = ""


@dataclass(slots=True)
class DroppedDocument:
    """A rejected document with the reason. `text` is a sample for inspection and may be empty."""

    reason: str
    id: str
    text: str = ""


ReadResult = Document | DroppedDocument
"""Element type of a reader's iterator."""
