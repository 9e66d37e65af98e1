"""Conversations from files: ChatterBot YAML, JSON or tables in the usual shapes, or gettext translations.

    conversations:                              {"messages": [{"role": "user", "content": "Hello"},
    - - Hello                                                 {"role": "assistant", "content": "Hi"}]}
      - Hi

Dropped conversations are counted by reason, and some are kept as samples.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import yaml

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.data.conversation_shapes import find_messages
from groundup.data.held_out_conversations import is_held_out
from groundup.data.inputs import file_hashes, resolve_files
from groundup.data.readers.gettext import FormatString, parse_gettext
from groundup.data.readers.table import is_arrow, parse_rows, read_records
from groundup.recipe.finetune_config import ConversationSourceConfig, FinetuneConfig

ROLES = ("system", "user", "assistant")

Turns = tuple[tuple[str, str], ...]
"""(role, text) pairs."""

DROP_REASONS = {
    "malformed": "not a list of text turns",
    "no_answer": "no assistant turn",
    "wrong_order": "user and assistant turns do not alternate",
    "duplicate": "duplicate of an earlier one",
    "format_string": "message of a program with placeholders",
    "untranslated": "translation equal to the message",
    "too_long": "first answer beyond the model's context length",
}


@dataclass(frozen=True)
class TrainingConversation:
    """Alternating turns of user and assistant, ending with the assistant; a system message may come first.

    Attributes:
        source: name of the source in the recipe.
        topic: name of its file, without suffix.
        weight: number of times in one epoch.
    """

    turns: Turns
    source: str
    topic: str
    weight: float = 1.0

    @property
    def messages(self) -> list[dict[str, str]]:
        """As a list of messages for chat templates."""
        return [{"role": role, "content": text} for role, text in self.turns]

    @property
    def opening(self) -> str:
        """The first user turn."""
        return next(text for role, text in self.turns if role == "user")


class ConversationDropped(Exception):
    """The message is one of DROP_REASONS."""


@dataclass
class ConversationStats:
    """Numbers of conversations read, kept and dropped by reason, and some samples of the dropped ones."""

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
    """All conversations of all sources without duplicates, in the order of the recipe and the files.

    Raises UserError if a source cannot be read, or no conversation is left.
    """
    stats = ConversationStats()
    conversations: dict[Turns, TrainingConversation] = {}
    for source in inputs:
        for item, topic in _read_items(source, machine):
            stats.read += 1
            try:
                for turns in TURN_PARSERS[source.kind](item):
                    if turns in conversations:
                        raise ConversationDropped("duplicate")
                    conversations[turns] = TrainingConversation(turns, source.name, topic, source.repeats)
            except ConversationDropped as reason:
                stats.drop(str(reason), item, source.name)
    stats.kept = len(conversations)
    if not conversations:
        raise UserError(
            f"no conversations in {', '.join(source.name for source in inputs)} ({stats.read} entries read)",
            hint=_describe_drops(stats),
        )
    return list(conversations.values()), stats


def _describe_drops(stats: ConversationStats) -> str:
    """Why nothing was kept, the fields of an entry, and the shapes that are read."""
    reasons = [f"{count:,} {DROP_REASONS[reason]}" for reason, count in stats.dropped.most_common()]
    entry = next((sample["item"] for sample in stats.samples if isinstance(sample["item"], dict)), None)
    fields = [f"fields: {', '.join(map(str, entry))}"] if entry else []
    shapes = "`messages`, `conversations`, instruction and output, prompt and completion, or question and answer"
    return "; ".join([*reasons, *fields, f"JSON or CSV is read with {shapes}"])


def split_conversations(
    conversations: Sequence[TrainingConversation], fraction: float
) -> tuple[list[TrainingConversation], list[TrainingConversation]]:
    """(training set, validation set with about `fraction` of the openings), in their order.

    Split by a hash of the opening, so that no opening is in both sets.
    """
    parts: tuple[list[TrainingConversation], list[TrainingConversation]] = ([], [])
    for conversation in conversations:
        parts[is_held_out(conversation.opening, fraction)].append(conversation)
    return parts


def identity(section: FinetuneConfig, machine: Machine) -> dict[str, Any]:
    """The content hash of every source by name, so that changed files make a new run. Downloads nothing.

    Raises UserError if a local path matches no file.
    """
    return {source.name: file_hashes(source, machine) for source in (*section.conversations, *section.examples)}


def _read_items(source: ConversationSourceConfig, machine: Machine) -> Iterator[tuple[Any, str]]:
    """(parsed entry, file name without suffix) of the source's files, sorted by name."""
    topics = set(source.topics)
    topics_read = set()
    for file in resolve_files(source, machine):
        texts = []
        for member in file.iter_members():
            topic = PurePosixPath(member.name).stem
            if not topics or topic in topics:
                texts.append((member.name, topic, member.stream.read()))
        for name, topic, data in sorted(texts):
            topics_read.add(topic)
            yield from ((item, topic) for item in _parse(source.kind, data, name))
    if missing := sorted(topics - topics_read):
        raise UserError(
            f"finetune.conversations: {source.name}: no file named {missing[0]}", hint=f"check {source.path}"
        )


def _parse(kind: str, data: bytes, name: str) -> Iterable[Any]:
    if kind == "messages" and is_arrow(name):
        return read_records(name, io.BytesIO(data))
    return PARSERS[kind](_decode(data, name), name)


def parse_chatterbot(text: str, name: str) -> list[Any]:
    """The entries of `conversations`. CBaseLoader reads scalars as text ("no" is not a boolean) and cannot run code."""
    try:
        for event in yaml.parse(text, Loader=yaml.CBaseLoader):
            if isinstance(event, yaml.AliasEvent):  # a few lines would become gigabytes
                raise yaml.YAMLError(f"line {event.start_mark.line + 1}: aliases are not supported")
        content = yaml.load(text, Loader=yaml.CBaseLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(
            f"{name}: not valid YAML: {str(error).splitlines()[0]}", hint="correct or remove the file"
        ) from None
    entries = content.get("conversations") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise UserError(f"{name}: no list `conversations`, expected ChatterBot's format", hint="try kind = messages")
    return entries


def parse_records(text: str, name: str) -> list[Any]:
    """A JSON object a line, an array of them, or the rows of a CSV or TSV file by column in lower case.

    Invalid lines of JSON become entries that are dropped as malformed. Raises UserError for a broken table.
    """
    if PurePosixPath(name).suffix.lower() in (".csv", ".tsv"):
        try:
            return list(parse_rows(text, name))
        except csv.Error as error:
            raise UserError(f"{name}: not a table ({error})", hint="save it as CSV or as JSON lines") from None
    entries: list[Any] = []
    if text.lstrip().startswith("["):
        try:
            return list(json.loads(text))
        except (ValueError, RecursionError):
            pass
    for line in text.split("\n"):  # splitlines would also part lines within a string
        if line.strip():
            try:
                entries.append(json.loads(line))
            except (ValueError, RecursionError):
                entries.append(line[:200])
    return entries


def turns_from_lines(item: Any) -> Iterator[Turns]:
    """Lines of user and assistant in turn; a last line without an answer is dropped."""
    lines = _lines(item)
    roles = ("user", "assistant")
    turns = tuple((roles[index % 2], line) for index, line in enumerate(lines))
    yield turns if len(turns) % 2 == 0 else turns[:-1]


def turns_from_answers(item: Any) -> Iterator[Turns]:
    """A first line, and several answers to it: one conversation each."""
    first, *answers = _lines(item)
    yield from ((("user", first), ("assistant", answer)) for answer in dict.fromkeys(answers))


def turns_from_messages(item: Any) -> Iterator[Turns]:
    """The messages of a record, up to the last assistant turn."""
    messages = find_messages(item)
    if messages is None:
        raise ConversationDropped("malformed")
    turns = tuple((message["role"], message["content"]) for message in messages)
    if not all(role in ROLES and isinstance(text, str) and text.strip() for role, text in turns):
        raise ConversationDropped("malformed")
    while turns and turns[-1][0] != "assistant":
        turns = turns[:-1]
    dialogue = turns[1:] if turns and turns[0][0] == "system" else turns
    if not dialogue:
        raise ConversationDropped("no_answer")
    if any(role != ("user", "assistant")[index % 2] for index, (role, _) in enumerate(dialogue)):
        raise ConversationDropped("wrong_order")
    yield tuple((role, text.strip()) for role, text in turns)


def _lines(item: Any) -> list[str]:
    """At least two lines of text, with normalized white space."""
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


def turns_from_gettext(item: Any) -> Iterator[Turns]:
    """A message and its translation, without format strings and what is not translated: their copies score well."""
    if isinstance(item, FormatString):
        raise ConversationDropped("format_string")
    if item[0] == item[1]:
        raise ConversationDropped("untranslated")
    yield from turns_from_lines(item)


PARSERS: dict[str, Callable[[str, str], list[Any]]] = {
    "chatterbot": parse_chatterbot,
    "chatterbot_answers": parse_chatterbot,
    "messages": parse_records,
    "gettext": parse_gettext,
}
TURN_PARSERS: dict[str, Callable[[Any], Iterator[Turns]]] = {
    "chatterbot": turns_from_lines,
    "chatterbot_answers": turns_from_answers,
    "messages": turns_from_messages,
    "gettext": turns_from_gettext,
}
