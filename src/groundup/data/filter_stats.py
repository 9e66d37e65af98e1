"""Statistics of a source: documents and bytes read, kept, dropped by reason and changed by step, with samples."""

import re
from dataclasses import dataclass, field
from typing import Any

from groundup.data.clean.cleaning_steps import utf8_bytes
from groundup.data.document import Document, DroppedDocument
from groundup.data.file_kind import ENCODED, LEFT_OUT_KINDS, TROFF, UNKNOWN_KIND
from groundup.data.held_out_conversations import HELD_OUT
from groundup.data.readers.records import MISSING_COLUMN

MAX_SAMPLES = 20
"""Samples stored per source and reason."""
SAMPLE_CHARACTERS = 2_000
CONTEXT_CHARACTERS = 160
EXCERPT_CHARACTERS = 800
PII_STEP = "pii"
"""Samples of this step show only the text after the change: the personal data must not be stored."""

REASON_TEXTS = {
    "language: unsure": "language probability below data.language.threshold",
    "exact_duplicate": "exact duplicate (data.exact_dedup)",
    "near_duplicate": "near duplicate (data.minhash_dedup)",
    "all_passages_repeated": "no text left after data.exact_dedup.paragraphs or data.substring_dedup",
    "not_sampled": "not sampled (data.sources[].epochs below 1)",
    MISSING_COLUMN: "the column of the text is missing (data.sources[].text_column)",
    "no_text": "no text in it",
    "scanned_page": "scanned pages, which are pictures: run an OCR program over them first",
    "encrypted": "a password is needed",
    "not_read": "the reader of this kind takes no such file (data.sources[].kind)",
    "unknown_kind": "no reader for files of this kind (binary, or settings and data)",
    TROFF: "manual pages with troff macros: `man -P cat -l FILE` prints their text",
    ENCODED: "base64, hexadecimal digits or others without words",
    "nested_archive": "archives within archives, more than three deep",
    "conversations": "conversations: they belong into finetune.conversations",
    HELD_OUT: "held out for validation by fine-tuning (data.held_out_conversations)",
    "format_string": "message of a program with placeholders",
}

REASON_KNOBS = {
    "gopher_quality": {
        "few_words": "min_words", "many_words": "max_words", "short_words": "min_mean_word_length",
        "long_words": "max_mean_word_length", "hashes": "max_symbol_ratio", "ellipses": "max_symbol_ratio",
        "bullets": "max_bullet_lines_ratio", "ellipsis_lines": "max_ellipsis_lines_ratio",
        "no_letters": "min_alphabetic_words_ratio", "no_stop_words": "min_stop_words",
    },
    "gopher_repetition": {
        "repeated_paragraphs": "max_duplicate_lines_ratio", "repeated_lines": "max_duplicate_lines_ratio",
        "repeated_paragraphs_characters": "max_duplicate_line_characters_ratio",
        "repeated_lines_characters": "max_duplicate_line_characters_ratio",
        **dict.fromkeys((f"top_{n}_gram" for n in (2, 3, 4)), "max_top_ngram_ratios"),
        **dict.fromkeys((f"repeated_{n}_grams" for n in range(5, 11)), "max_duplicate_ngram_ratios"),
    },
    "fineweb": {
        "few_ended_lines": "min_punctuated_lines_ratio", "short_lines": "max_short_lines_ratio",
        "repeated_lines": "max_duplicate_characters_ratio", "list": "max_newlines_per_word",
    },
    "c4": {"few_sentences": "min_sentences"},
    "code": {
        "long_line": "max_line_length", "long_lines": "max_mean_line_length", "few_letters": "min_alphanumeric_ratio",
        "generated": "drop_generated",
    },
}  # fmt: skip
"""Knob of each rule, by table of [data] and reason."""

CONTROL_TOKEN = re.compile(r"<\|[A-Za-z][\w-]{0,40}\|>")
MAX_CONTROL_TOKENS, MANY_CONTROL_TOKENS = 50, 10
"""Different ones that are counted; occurrences of one that are worth a warning."""

FEW_KEPT = 1 / 3
"""A source that keeps less is worth a warning."""
NOT_LOST = (*LEFT_OUT_KINDS, "not_read", "not_sampled", "empty_file", HELD_OUT)
"""Reasons that do not count for it: no text, or left out on purpose."""


def describe_reason(reason: str) -> str:
    """A drop reason in plain words, with the knob that controls it.

    >>> describe_reason("language: de")
    'language is de, not in data.language.languages'
    >>> describe_reason("gopher_quality: few_words")
    'few words (data.gopher_quality.min_words)'
    """
    step, _, detail = reason.partition(": ")
    if reason in REASON_TEXTS:
        return REASON_TEXTS[reason]
    if step == "language":
        return f"language is {detail}, not in data.language.languages"
    if step == "license":
        return f"license is {detail}, not in data.code.licenses"
    knob = REASON_KNOBS.get(step, {}).get(detail)
    place = f"data.{step}.{knob}" if knob else f"data.{step}"
    return f"{detail.replace('_', ' ')} ({place})" if detail else reason.replace("_", " ")


@dataclass
class FilterStats:
    """Counts of a source or a part of it, as [documents, bytes].

    Documents: read = kept + dropped. Bytes: read = kept + dropped + trimmed.
    """

    read: list[int] = field(default_factory=lambda: [0, 0])
    kept: list[int] = field(default_factory=lambda: [0, 0])
    dropped: dict[str, list[int]] = field(default_factory=dict)
    trimmed: dict[str, int] = field(default_factory=dict)
    samples: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    languages: dict[str, int] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    replaced: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    encodings: dict[str, int] = field(default_factory=dict)
    control_tokens: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    changes: dict[str, list[dict[str, str]]] = field(default_factory=dict)

    def add_dropped(self, found: DroppedDocument, bytes_read: int) -> None:
        """Count a document of `bytes_read` bytes that was dropped while reading or cleaning."""
        _add_counts(self.read, 1, bytes_read)
        _add_counts(self.dropped.setdefault(found.reason, [0, 0]), 1, bytes_read)
        self.add_sample(found)

    def add_control_tokens(self, text: str) -> None:
        """Count what looks like a control token, such as <|im_start|>."""
        if "<|" in text:
            for token in CONTROL_TOKEN.findall(text):
                if token in self.control_tokens or len(self.control_tokens) < MAX_CONTROL_TOKENS:
                    self.control_tokens[token] = self.control_tokens.get(token, 0) + 1

    def add_kept(self, document: Document, bytes_read: int) -> None:
        """Count a document that passed cleaning; its changes are already in `trimmed`."""
        _add_counts(self.read, 1, bytes_read)
        _add_counts(self.kept, 1, utf8_bytes(document.text))

    def add_left_out(self, counts: dict[str, int]) -> None:
        """Count what a reader left out of a document."""
        for name, count in counts.items():
            self.left_out[name] = self.left_out.get(name, 0) + count

    def drop_kept(self, found: DroppedDocument) -> None:
        """Move a document from kept to dropped, in a later pass."""
        size = utf8_bytes(found.text)
        _add_counts(self.kept, -1, -size)
        _add_counts(self.dropped.setdefault(found.reason, [0, 0]), 1, size)
        self.add_sample(found)

    def add_change(self, step: str, id: str, before: str, after: str) -> None:
        """Count the bytes that a step removed from a kept document, and store the first few as samples."""
        self.trimmed[step] = self.trimmed.get(step, 0) + utf8_bytes(before) - utf8_bytes(after)
        samples = self.changes.setdefault(step, [])
        if len(samples) < MAX_SAMPLES:
            samples.append({"id": id, **_diff_excerpt(before, after, step != PII_STEP)})

    def change_kept(self, step: str, id: str, before: str, after: str) -> None:
        """Count a change of a kept document in a later pass."""
        self.kept[1] -= utf8_bytes(before) - utf8_bytes(after)
        self.add_change(step, id, before, after)

    def add_length(self, text: str) -> None:
        """Count the length of a document of the corpus, in bytes rounded up to a power of two."""
        length = str(1 << max(utf8_bytes(text) - 1, 0).bit_length())
        self.lengths[length] = self.lengths.get(length, 0) + 1

    def add_sample(self, found: DroppedDocument) -> None:
        """Store the first few dropped documents of each reason."""
        samples = self.samples.setdefault(found.reason, [])
        if len(samples) < MAX_SAMPLES:
            samples.append({"id": found.id, "text": found.text[:SAMPLE_CHARACTERS]})

    def merge(self, other: "FilterStats") -> None:
        """Add the statistics of another part."""
        _add_counts(self.read, *other.read)
        _add_counts(self.kept, *other.kept)
        for reason, counts in other.dropped.items():
            _add_counts(self.dropped.setdefault(reason, [0, 0]), *counts)
        for name in ("trimmed", "languages", "lengths", "replaced", "kinds", "encodings", "left_out", "control_tokens"):
            totals: dict[str, int] = getattr(self, name)
            for key, count in getattr(other, name).items():
                totals[key] = totals.get(key, 0) + count
        for name in ("samples", "changes"):
            for key, samples in getattr(other, name).items():
                stored = getattr(self, name).setdefault(key, [])
                stored += samples[: MAX_SAMPLES - len(stored)]

    def as_metrics(self) -> dict[str, Any]:
        """Counts for the manifest, without samples."""
        pair = ("documents", "bytes")
        return {
            "read": dict(zip(pair, self.read, strict=True)),
            "kept": dict(zip(pair, self.kept, strict=True)),
            "dropped": {
                reason: dict(zip(pair, counts, strict=True)) for reason, counts in sorted(self.dropped.items())
            },
            "trimmed": dict(sorted(self.trimmed.items())),
            "languages": dict(sorted(self.languages.items(), key=lambda entry: (-entry[1], entry[0]))),
            "lengths": dict(sorted(self.lengths.items(), key=lambda entry: int(entry[0]))),
            "replaced": dict(sorted(self.replaced.items())),
            "kinds": dict(sorted(self.kinds.items())),
            "encodings": dict(sorted(self.encodings.items())),
            "left_out": dict(sorted(self.left_out.items())),
            "control_tokens": dict(sorted(self.control_tokens.items())),
        }

    def describe(self, name: str) -> list[str]:
        """Lines on a source for the console: kept and read, the main reasons, a warning if little is kept."""
        lines = [f"{name}: kept {self.kept[0]:,} of {self.read[0]:,} documents"]
        if self.kinds.keys() - {UNKNOWN_KIND} and len(self.kinds) > 1:
            lines.append(f"{name}: {count_by_name(self.kinds)}")
        if self.encodings.keys() - {"utf-8"}:
            lines.append(f"{name}: character sets: {count_by_name(self.encodings)}")
        lines += [f"{name}: dropped {reason}" for reason in self.top_reasons()]
        if self.replaced:
            lines.append(f"{name}: replaced by tokens (data.pii): {count_by_name(self.replaced)}")
        lines += [f"{name}: left out {count:,} {what}" for what, count in self.left_out.items()]
        lines += [
            f"warning: {name}: the text spells {token} {count:,} times: it is learnt as letters, never as the token; if it parts "
            "documents, set data.sources[].delimiter, else remove it from the text"
            for token, count in sorted(self.control_tokens.items(), key=lambda item: -item[1])[:3]
            if count >= MANY_CONTROL_TOKENS
        ]
        lost = {reason: counts[0] for reason, counts in self.dropped.items() if reason not in NOT_LOST}
        texts = self.kept[0] + sum(lost.values())
        if self.kept[0] < FEW_KEPT * texts:
            most = max(lost, key=lost.__getitem__)
            lines.append(
                f"warning: {name}: {1 - self.kept[0] / texts:.0%} of the documents were dropped, most of them by one "
                f"rule: {describe_reason(most)}; samples: groundup inspect RUN --source {name} --show dropped"
            )
        return lines

    def top_reasons(self, limit: int = 3) -> list[str]:
        """The most frequent drop reasons: "291 documents: language is de, not in data.language.languages"."""
        dropped = sorted(self.dropped.items(), key=lambda item: (-item[1][0], item[0]))[:limit]
        return [
            f"{documents:,} document{'s' if documents != 1 else ''}: {describe_reason(reason)}{self._details(reason)}"
            for reason, (documents, _) in dropped
        ]

    def describe_loss(self) -> str:
        """Why nothing was kept."""
        return "; ".join(self.top_reasons()) or "no document in its files"

    def _details(self, reason: str) -> str:
        """What the first sample of a reason says beyond it."""
        samples = self.samples.get(reason, []) if reason == MISSING_COLUMN else []
        return f": {samples[0]['text']}" if samples else ""


def count_by_name(counts: dict[str, int]) -> str:
    """Counts in words, the largest first.

    >>> count_by_name({"code": 3, "text": 291})
    '291 text, 3 code'
    """
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in ordered)


def _diff_excerpt(before: str, after: str, show_before: bool) -> dict[str, str]:
    """The texts around their first difference."""
    pairs = enumerate(zip(before, after, strict=False))
    first = next((index for index, (a, b) in pairs if a != b), min(len(before), len(after)))
    start = max(0, first - CONTEXT_CHARACTERS)
    excerpt = {"after": after[start : start + EXCERPT_CHARACTERS]}
    return {"before": before[start : start + EXCERPT_CHARACTERS], **excerpt} if show_before else excerpt


def _add_counts(counts: list[int], documents: int, size: int) -> None:
    counts[0] += documents
    counts[1] += size
