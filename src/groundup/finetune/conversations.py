"""Conversations from files: ChatterBot's YAML, JSON lines with a `messages` list, or gettext's translations.

    conversations:                              {"messages": [{"role": "user", "content": "Hello"},
    - - Hello                                                 {"role": "assistant", "content": "Hi"}]}
      - Hi

What cannot be learned from is counted under a reason, and kept aside to be looked at.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import yaml

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.data.inputs import resolve_files
from groundup.recipe.finetune_config import ConversationSourceConfig

ROLES = ("system", "user", "assistant")

DROP_REASONS = {
    "malformed": "not a list of turns in text",
    "no_answer": "nobody answers",
    "wrong_order": "user and assistant do not speak in turn",
    "duplicate": "the same conversation again",
    "too_long": "its first answer does not fit into the model's context",
}


@dataclass(frozen=True)
class TrainingConversation:
    """Turns in their order, user and assistant by turns, the assistant last; a system message may come first.

    Attributes:
        turns: (role, text) pairs.
        source: the name of the place it came from.
        topic: the name of its file, without suffix.
        weight: times that it is shown in one epoch.
    """

    turns: tuple[tuple[str, str], ...]
    source: str
    topic: str
    weight: float = 1.0

    @property
    def messages(self) -> list[dict[str, str]]:
        """As chat templates want it."""
        return [{"role": role, "content": text} for role, text in self.turns]

    @property
    def opening(self) -> str:
        """What the user says first."""
        return next(text for role, text in self.turns if role == "user")


class ConversationDropped(Exception):
    """A conversation that is left out; its message is one of DROP_REASONS."""


@dataclass
class ConversationStats:
    """How many conversations came and went, and a few of those that went."""

    read: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    samples: list[dict[str, Any]] = field(default_factory=list)
    MAX_SAMPLES = 10

    def drop(self, reason: str, item: Any, source: str) -> None:
        self.dropped[reason] += 1
        if self.dropped[reason] <= self.MAX_SAMPLES:
            self.samples.append({"reason": reason, "source": source, "item": item})

    def summary(self) -> dict[str, Any]:
        return {"read": self.read, "kept": self.kept, "dropped": dict(sorted(self.dropped.items()))}


def read_conversations(
    inputs: Iterable[ConversationSourceConfig], machine: Machine
) -> tuple[list[TrainingConversation], ConversationStats]:
    """All conversations of all places, each once, in the order of the recipe and the files.

    Raises UserError when a place cannot be reached or read, or when nothing is left.
    """
    funnel = ConversationStats()
    found: dict[tuple, TrainingConversation] = {}
    for place in inputs:
        for item, topic in _read_items(place, machine):
            funnel.read += 1
            try:
                for turns in TURN_PARSERS[place.kind](item):
                    if turns in found:
                        raise ConversationDropped("duplicate")
                    found[turns] = TrainingConversation(turns, place.name, topic, place.repeats)
            except ConversationDropped as reason:
                funnel.drop(str(reason), item, place.name)
    funnel.kept = len(found)
    if not found:
        raise UserError(
            f"no conversations in {', '.join(place.name for place in inputs)} ({funnel.read} entries read)",
            hint="a conversation has two turns or more; see finetune.conversations",
        )
    return list(found.values()), funnel


def _read_items(source: ConversationSourceConfig, machine: Machine) -> Iterator[tuple[Any, str]]:
    """Each entry of the place's files as parsed, with the name of its file. Members are sorted by their
    names.
    """
    wanted = set(source.topics)
    seen = set()
    for file in resolve_files(source, machine):
        texts = []
        for member in file.iter_members():
            topic = PurePosixPath(member.name).stem
            if not wanted or topic in wanted:
                texts.append((member.name, topic, member.stream.read()))
        for name, topic, data in sorted(texts):
            seen.add(topic)
            yield from ((item, topic) for item in PARSERS[source.kind](_decode(data, name), name))
    if missing := sorted(wanted - seen):
        raise UserError(
            f"finetune.conversations: {source.name}: no file is called {missing[0]}",
            hint=f"check {source.path}",
        )


def parse_chatterbot(text: str, name: str) -> list[Any]:
    """The entries of `conversations`. BaseLoader makes text of everything: "no" stays a word, and no code can
    run.
    """
    try:
        content = yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(
            f"{name}: not valid YAML: {str(error).splitlines()[0]}", hint="correct or remove the file"
        ) from None
    entries = content.get("conversations") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise UserError(
            f"{name}: no list `conversations`, expected chatterbot's layout", hint="is its kind messages?"
        )
    return entries


def parse_messages(text: str, name: str) -> list[Any]:
    """One JSON object a line; a line that is none is an entry that will be dropped as malformed."""
    entries: list[Any] = []
    for line in text.splitlines():
        if line.strip():
            try:
                entries.append(json.loads(line))
            except (ValueError, RecursionError):
                entries.append(line[:200])
    return entries


def turns_from_lines(item: Any) -> Iterator[tuple[tuple[str, str], ...]]:
    """Lines spoken by user and assistant in turn; a last line without an answer is left out."""
    lines = _lines(item)
    roles = ("user", "assistant")
    turns = tuple((roles[index % 2], line) for index, line in enumerate(lines))
    yield turns if len(turns) % 2 == 0 else turns[:-1]


def turns_from_answers(item: Any) -> Iterator[tuple[tuple[str, str], ...]]:
    """A first line, and several answers to it: a conversation of one question each."""
    first, *answers = _lines(item)
    yield from ((("user", first), ("assistant", answer)) for answer in dict.fromkeys(answers))


def turns_from_messages(item: Any) -> Iterator[tuple[tuple[str, str], ...]]:
    """A `messages` list as the field has it, up to the assistant's last turn."""
    messages = item.get("messages") if isinstance(item, dict) else None
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ConversationDropped("malformed")
    turns = tuple((message.get("role"), message.get("content")) for message in messages)
    if not all(role in ROLES and isinstance(text, str) and text.strip() for role, text in turns):
        raise ConversationDropped("malformed")
    while turns and turns[-1][0] != "assistant":
        turns = turns[:-1]
    spoken = turns[1:] if turns and turns[0][0] == "system" else turns
    if not spoken:
        raise ConversationDropped("no_answer")
    if any(role != ("user", "assistant")[index % 2] for index, (role, _) in enumerate(spoken)):
        raise ConversationDropped("wrong_order")
    yield tuple((role, text.strip()) for role, text in turns)


def _lines(item: Any) -> list[str]:
    """At least two lines of text, with white space evened out."""
    if not isinstance(item, list) or not all(isinstance(line, str) for line in item):
        raise ConversationDropped("malformed")
    lines = [" ".join(line.split()) for line in item]
    if not all(lines):
        raise ConversationDropped("malformed")
    if len(lines) < 2:
        raise ConversationDropped("no_answer")
    return lines


def _decode(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not UTF-8 text ({error})", hint="convert it with iconv") from None


def parse_gettext(text: str, name: str) -> list[Any]:
    """[message, translation] of each entry of a catalogue that has both: not the header, plurals or doubtful ones."""
    entries: list[Any] = []
    for block in re.split(r"\n\s*\n", text.replace("\r\n", "\n")):
        if re.search(r"^#,.*\bfuzzy\b", block, re.MULTILINE) or "\nmsgid_plural" in block:
            continue
        parts: dict[str, str] = {}
        key = ""
        for line in block.splitlines():
            if found := PO_LINE.match(line):
                key = found["key"] or key
                parts[key] = parts.get(key, "") + _unescaped(found["text"])
        if parts.get("msgid") and parts.get("msgstr"):
            entries.append([parts["msgid"], parts["msgstr"]])
    return entries


PO_LINE = re.compile(r'^(?P<key>msgctxt|msgid|msgstr)?\s*"(?P<text>.*)"\s*$')


def _unescaped(text: str) -> str:
    escapes = {"n": "\n", "t": "\t", "r": "\r"}
    return re.sub(r"\\(.)", lambda found: escapes.get(found[1], found[1]), text)


PARSERS: dict[str, Callable[[str, str], list[Any]]] = {
    "chatterbot": parse_chatterbot,
    "chatterbot_answers": parse_chatterbot,
    "messages": parse_messages,
    "gettext": parse_gettext,
}
TURN_PARSERS: dict[str, Callable[[Any], Iterator[tuple[tuple[str, str], ...]]]] = {
    "chatterbot": turns_from_lines,
    "chatterbot_answers": turns_from_answers,
    "messages": turns_from_messages,
    "gettext": turns_from_lines,
}
