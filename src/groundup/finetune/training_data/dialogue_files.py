"""Dialogues in ChatterBot's YAML and in gettext catalogues: entries of lines.

conversations:              msgid "Save"
- - Hello                   msgstr "Speichern"
  - Hi
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import yaml

from groundup.artifacts.errors import UserError
from groundup.data.conversation_shapes import Messages, in_turn
from groundup.data.readers.gettext import FormatString, parse_gettext
from groundup.data.record_files import FileRecord, OpenableFile
from groundup.finetune.training_data.read_stats import RecordDropped


def dialogue_records(kind: str, files: Sequence[OpenableFile]) -> Iterator[FileRecord]:
    """The entries of all files of a kind, with their number. Raises UserError for a file that is not of this kind."""
    for name, open_file in files:
        with open_file() as stream:
            entries = ENTRY_PARSERS[kind](_decode(stream.read(), name), name)
        yield from (FileRecord(entry, name, number) for number, entry in enumerate(entries, start=1))


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


def messages_of_lines(entry: Any) -> Iterator[Messages]:
    """Lines of user and assistant in turn."""
    yield in_turn(_lines(entry))


def messages_of_answers(entry: Any) -> Iterator[Messages]:
    """A first line, and several answers to it: one conversation each."""
    first, *answers = _lines(entry)
    yield from (in_turn([first, answer]) for answer in dict.fromkeys(answers))


def messages_of_translation(entry: Any) -> Iterator[Messages]:
    """A message and its translation, without format strings and what is not translated: their copies score well."""
    if isinstance(entry, FormatString):
        raise RecordDropped("format_string")
    if entry[0] == entry[1]:
        raise RecordDropped("untranslated")
    yield from messages_of_lines(entry)


def _lines(entry: Any) -> list[str]:
    """At least two lines of text, with normalized white space: YAML breaks lines anywhere."""
    if not isinstance(entry, list) or not all(isinstance(line, str) for line in entry):
        raise RecordDropped("malformed")
    lines = [" ".join(line.split()) for line in entry]
    if not all(lines):
        raise RecordDropped("empty_turn")
    if len(lines) < 2:
        raise RecordDropped("no_answer")
    return lines


def _decode(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not UTF-8 text ({error})", hint="convert it with iconv") from None


ENTRY_PARSERS: dict[str, Callable[[str, str], list[Any]]] = {
    "chatterbot": parse_chatterbot,
    "chatterbot_answers": parse_chatterbot,
    "gettext": parse_gettext,
}
MESSAGES_OF_ENTRIES: dict[str, Callable[[Any], Iterator[Messages]]] = {
    "chatterbot": messages_of_lines,
    "chatterbot_answers": messages_of_answers,
    "gettext": messages_of_translation,
}
