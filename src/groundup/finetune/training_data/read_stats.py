"""What was read of the files of fine-tuning, what was dropped or changed and why, with file and line."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from groundup.data.record_files import FAULTS, FileRecord

DROP_REASONS = FAULTS | {
    "malformed": "not in a known shape",
    "unknown_role": "a role other than system, developer, user, assistant and tool",
    "not_text": "a content that is no text, such as an image",
    "empty_turn": "a turn without text",
    "no_answer": "no assistant turn",
    "wrong_order": "two turns of one role behind each other",
    "undesirable": "labelled as a bad answer",
    "nothing_learnt": "no answer with a weight",
    "duplicate": "duplicate of an earlier one",
    "same_answers": "chosen and rejected answers are equal",
    "format_string": "message of a program with placeholders",
    "untranslated": "translation equal to the message",
    "too_long": "beyond the sequence length",
    "calls_left_out": "tool calls, which the chat template leaves out",
    "refused": "refused by the chat template",
}
CHANGES = {
    "ends_with_user": "turns after the last answer left out",
    "merged_turns": "doubled turns of one role merged",
    "cut": "last turns beyond the sequence length cut off",
    "split": "split into pieces of the sequence length",
}


class RecordDropped(Exception):
    """The message is one of DROP_REASONS."""


@dataclass
class ReadStats:
    """Numbers of records read, kept, dropped by reason and changed by kind, with the position of each that was not kept as it is.

    Attributes:
        positions: reason, source, file and line of each; of the first MAX_SAMPLES of a reason also the record.
    """

    read: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    positions: list[dict[str, Any]] = field(default_factory=list)
    MAX_SAMPLES = 10

    def drop(self, reason: str, item: Any, source: str, file: str = "", line: int = 0) -> None:
        """Count what is dropped for one of DROP_REASONS."""
        self.dropped[reason] += 1
        self._note(reason, self.dropped[reason], item, source, file, line)

    def change(self, kind: str, item: Any, source: str, file: str = "", line: int = 0) -> None:
        """Count what is kept, but not as it is: one of CHANGES."""
        self.changed[kind] += 1
        self._note(kind, self.changed[kind], item, source, file, line)

    def add(self, other: "ReadStats") -> None:
        """Count also what a later step dropped and changed of what was kept."""
        self.kept -= other.dropped.total()
        self.dropped += other.dropped
        self.changed += other.changed
        self.positions += other.positions

    def drop_record(self, reason: str, record: FileRecord, source: str) -> None:
        self.drop(reason, record.value, source, record.file, record.line)

    def _note(self, reason: str, count: int, item: Any, source: str, file: str, line: int) -> None:
        place = {"file": file, "line": line} if file else {}
        shown = {"item": item} if count <= self.MAX_SAMPLES else {}
        self.positions.append({"reason": reason, "source": source} | place | shown)

    def summary(self) -> dict[str, Any]:
        """For metrics: read, kept, dropped by reason, changed by kind if any was."""
        changed = {"changed": dict(sorted(self.changed.items()))} if self.changed else {}
        return {"read": self.read, "kept": self.kept, "dropped": dict(sorted(self.dropped.items()))} | changed

    def describe(self) -> str:
        """One line for the log: the numbers, and for each reason where the first of them is."""
        if not self.read:
            return "0 read: the files are empty"
        return "; ".join(filter(None, [f"{self.read:,} read, {self.kept:,} kept", self.describe_losses()]))

    def describe_losses(self) -> str:
        """What was dropped and changed, and for each reason where the first of them is; "" if nothing was."""
        parts = []
        for verb, counts, meanings in (("dropped", self.dropped, DROP_REASONS), ("changed", self.changed, CHANGES)):
            found = [f"{count:,} {meanings[reason]}{self._first(reason)}" for reason, count in counts.most_common()]
            parts += [f"{verb}: {', '.join(found)}"] if found else []
        return "; ".join(parts)

    def _first(self, reason: str) -> str:
        place = next((each for each in self.positions if each["reason"] == reason and "file" in each), None)
        return f" ({place['file']}:{place['line']})" if place else ""

    def describe_fields(self) -> str | None:
        """The fields of the first dropped record; None without one."""
        entry = next((each["item"] for each in self.positions if isinstance(each.get("item"), dict)), None)
        return f"fields: {', '.join(map(str, entry))}" if entry else None
