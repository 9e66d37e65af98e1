"""How much came in, how much went where: counts that add up, and a few examples of everything that was
dropped.
"""

from dataclasses import dataclass, field
from typing import Any

from groundup.data.clean.private import TOKENS
from groundup.data.clean.steps import size
from groundup.data.document import Document, Dropped

SAMPLES = 20
"""Examples kept for each source and reason."""
SAMPLE_CHARACTERS = 2_000
SURROUNDINGS = 160
CHANGE_CHARACTERS = 800
PRIVATE = "private"
"""The change whose examples show only what came: what went must not be kept anywhere."""


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
    replaced: dict[str, int] = field(default_factory=dict)
    changes: dict[str, list[dict[str, str]]] = field(default_factory=dict)

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

    def change(self, rule: str, id: str, before: str, after: str) -> None:
        """Cleaning changed a document that passes: count the bytes that went, and keep the first few as examples."""
        self.trimmed[rule] = self.trimmed.get(rule, 0) + size(before) - size(after)
        if rule == PRIVATE:
            for token in TOKENS:
                if count := after.count(token) - before.count(token):
                    self.replaced[token] = self.replaced.get(token, 0) + count
        examples = self.changes.setdefault(rule, [])
        if len(examples) < SAMPLES:
            examples.append({"id": id, **_place(before, after, rule != PRIVATE)})

    def cut(self, rule: str, id: str, before: str, after: str) -> None:
        """A later pass took something out of a document that stays."""
        self.kept[1] -= size(before) - size(after)
        self.change(rule, id, before, after)

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
            (self.replaced, other.replaced),
        ):
            for name, amount in theirs.items():
                mine[name] = mine.get(name, 0) + amount
        for mine, theirs in ((self.samples, other.samples), (self.changes, other.changes)):
            for name, examples in theirs.items():
                shown = mine.setdefault(name, [])
                shown += examples[: SAMPLES - len(shown)]

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
            "replaced": dict(sorted(self.replaced.items())),
        }


def _place(before: str, after: str, show_before: bool) -> dict[str, str]:
    """Where two texts begin to differ, and a little around it."""
    pairs = enumerate(zip(before, after, strict=False))
    first = next((place for place, (a, b) in pairs if a != b), min(len(before), len(after)))
    start = max(0, first - SURROUNDINGS)
    place = {"after": after[start : start + CHANGE_CHARACTERS]}
    return {"before": before[start : start + CHANGE_CHARACTERS], **place} if show_before else place


def _add(counts: list[int], documents: int, amount: int) -> None:
    counts[0] += documents
    counts[1] += amount
