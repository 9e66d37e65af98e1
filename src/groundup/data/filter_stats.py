"""How much came in, how much went where: counts that add up, and a few examples of everything that was
dropped.
"""

from dataclasses import dataclass, field
from typing import Any

from groundup.data.clean.cleaning_steps import utf8_bytes
from groundup.data.clean.pii import PII_TOKENS
from groundup.data.document import Document, DroppedDocument

MAX_SAMPLES = 20
"""Examples kept for each source and reason."""
SAMPLE_CHARACTERS = 2_000
CONTEXT_CHARACTERS = 160
EXCERPT_CHARACTERS = 800
PII_STEP = "pii"
"""The change whose examples show only what came: what went must not be kept anywhere."""


@dataclass
class FilterStats:
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

    def add_dropped(self, found: DroppedDocument, bytes_read: int) -> None:
        """Count a document of `bytes_read` bytes that fell while it was read or cleaned."""
        _add_counts(self.read, 1, bytes_read)
        _add_counts(self.dropped.setdefault(found.reason, [0, 0]), 1, bytes_read)
        self.add_sample(found)

    def add_kept(self, document: Document, bytes_read: int) -> None:
        """Count a document that passed; what cleaning took from it stands in `trimmed` already."""
        _add_counts(self.read, 1, bytes_read)
        _add_counts(self.kept, 1, utf8_bytes(document.text))

    def drop_kept(self, found: DroppedDocument) -> None:
        """Move a document from kept to dropped: a later pass took it out."""
        amount = utf8_bytes(found.text)
        _add_counts(self.kept, -1, -amount)
        _add_counts(self.dropped.setdefault(found.reason, [0, 0]), 1, amount)
        self.add_sample(found)

    def add_change(self, rule: str, id: str, before: str, after: str) -> None:
        """Cleaning changed a document that passes: count the bytes that went, and keep the first few as examples."""
        self.trimmed[rule] = self.trimmed.get(rule, 0) + utf8_bytes(before) - utf8_bytes(after)
        if rule == PII_STEP:
            for token in PII_TOKENS:
                if count := after.count(token) - before.count(token):
                    self.replaced[token] = self.replaced.get(token, 0) + count
        examples = self.changes.setdefault(rule, [])
        if len(examples) < MAX_SAMPLES:
            examples.append({"id": id, **_diff_excerpt(before, after, rule != PII_STEP)})

    def change_kept(self, rule: str, id: str, before: str, after: str) -> None:
        """A later pass took something out of a document that stays."""
        self.kept[1] -= utf8_bytes(before) - utf8_bytes(after)
        self.add_change(rule, id, before, after)

    def add_length(self, text: str) -> None:
        """Note the length of a document that passed everything, by the next power of two of its bytes."""
        length = str(1 << max(utf8_bytes(text) - 1, 0).bit_length())
        self.lengths[length] = self.lengths.get(length, 0) + 1

    def add_sample(self, found: DroppedDocument) -> None:
        """Keep the first few of each reason as examples."""
        samples = self.samples.setdefault(found.reason, [])
        if len(samples) < MAX_SAMPLES:
            samples.append({"id": found.id, "text": found.text[:SAMPLE_CHARACTERS]})

    def merge(self, other: "FilterStats") -> None:
        """Add another part's counts."""
        _add_counts(self.read, *other.read)
        _add_counts(self.kept, *other.kept)
        for reason, counts in other.dropped.items():
            _add_counts(self.dropped.setdefault(reason, [0, 0]), *counts)
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
                shown += examples[: MAX_SAMPLES - len(shown)]

    def as_metrics(self) -> dict[str, Any]:
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


def _diff_excerpt(before: str, after: str, show_before: bool) -> dict[str, str]:
    """Where two texts begin to differ, and a little around it."""
    pairs = enumerate(zip(before, after, strict=False))
    first = next((place for place, (a, b) in pairs if a != b), min(len(before), len(after)))
    start = max(0, first - CONTEXT_CHARACTERS)
    place = {"after": after[start : start + EXCERPT_CHARACTERS]}
    return {"before": before[start : start + EXCERPT_CHARACTERS], **place} if show_before else place


def _add_counts(counts: list[int], documents: int, amount: int) -> None:
    counts[0] += documents
    counts[1] += amount
