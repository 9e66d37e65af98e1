"""How much came in, how much went where: counts that add up, and a few examples of everything that was
dropped.
"""

from dataclasses import dataclass, field
from typing import Any

from groundup.data.clean.steps import size
from groundup.data.document import Document, Dropped

SAMPLES = 20
"""Examples kept for each source and reason."""
SAMPLE_CHARACTERS = 2_000


@dataclass
class Funnel:
    """Counts of one source, or of a part of it. Documents: read = kept + dropped. Bytes: read = kept +
    dropped + trimmed.
    """

    read: list[int] = field(default_factory=lambda: [0, 0])
    kept: list[int] = field(default_factory=lambda: [0, 0])
    dropped: dict[str, list[int]] = field(default_factory=dict)
    trimmed: dict[str, int] = field(default_factory=dict)
    samples: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    languages: dict[str, int] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)

    def drop(self, found: Dropped, bytes_read: int) -> None:
        """Count a document of `bytes_read` bytes that fell while it was read or cleaned."""
        _add(self.read, 1, bytes_read)
        _add(self.dropped.setdefault(found.reason, [0, 0]), 1, bytes_read)
        self.show(found)

    def keep(self, document: Document, bytes_read: int) -> None:
        """Count a document that passed; what cleaning took from it stands in `trimmed` already."""
        _add(self.read, 1, bytes_read)
        _add(self.kept, 1, size(document.text))

    def later(self, found: Dropped) -> None:
        """Move a document from kept to dropped: a later pass took it out."""
        amount = size(found.text)
        _add(self.kept, -1, -amount)
        _add(self.dropped.setdefault(found.reason, [0, 0]), 1, amount)
        self.show(found)

    def cut(self, name: str, amount: int) -> None:
        """A later pass took `amount` bytes out of a document that stays."""
        self.kept[1] -= amount
        self.trimmed[name] = self.trimmed.get(name, 0) + amount

    def stay(self, text: str) -> None:
        """Note the length of a document that passed everything, by the next power of two of its bytes."""
        length = str(1 << max(size(text) - 1, 0).bit_length())
        self.lengths[length] = self.lengths.get(length, 0) + 1

    def show(self, found: Dropped) -> None:
        """Keep the first few of each reason as examples."""
        samples = self.samples.setdefault(found.reason, [])
        if len(samples) < SAMPLES:
            samples.append({"id": found.id, "text": found.text[:SAMPLE_CHARACTERS]})

    def merge(self, other: "Funnel") -> None:
        """Add another part's counts."""
        _add(self.read, *other.read)
        _add(self.kept, *other.kept)
        for reason, counts in other.dropped.items():
            _add(self.dropped.setdefault(reason, [0, 0]), *counts)
        for mine, theirs in (
            (self.trimmed, other.trimmed),
            (self.languages, other.languages),
            (self.lengths, other.lengths),
        ):
            for name, amount in theirs.items():
                mine[name] = mine.get(name, 0) + amount
        for reason, samples in other.samples.items():
            shown = self.samples.setdefault(reason, [])
            shown += samples[: SAMPLES - len(shown)]

    def table(self) -> dict[str, Any]:
        """The counts as metrics, without the samples."""
        pair = ("documents", "bytes")
        return {
            "read": dict(zip(pair, self.read, strict=True)),
            "kept": dict(zip(pair, self.kept, strict=True)),
            "dropped": {
                reason: dict(zip(pair, counts, strict=True))
                for reason, counts in sorted(self.dropped.items())
            },
            "trimmed": dict(sorted(self.trimmed.items())),
            "languages": dict(sorted(self.languages.items(), key=lambda entry: (-entry[1], entry[0]))),
            "lengths": dict(sorted(self.lengths.items(), key=lambda entry: int(entry[0]))),
        }


def _add(counts: list[int], documents: int, amount: int) -> None:
    counts[0] += documents
    counts[1] += amount
