"""The messages of a record, in the shapes in which conversations are published.

{"messages": [{"role": "user", "content": "Hello"}, ...]}           OpenAI, Hugging Face
{"conversations": [{"from": "human", "value": "Hello"}, ...]}       ShareGPT
{"instruction": "Translate", "input": "Hello", "output": "Hallo"}   Alpaca, with `history`; Dolly: context, response
{"prompt": "Hello", "completion": "Hi"}                             also: question and answer, text or messages
{"data": ["Hello", "Hi", ...]}                                      UltraChat: texts of user and assistant in turn
"""

import ast
import json
from collections.abc import Mapping, Sequence
from typing import Any

from groundup.data.chat_message import Message, is_turn, normal_message

TURN_LISTS = ("messages", "conversations", "conversation")
TEXT_LISTS = ("data", "dialog", "dialogue")
"""Fields of texts of user and assistant in turn."""
PROMPTS = {
    "instruction": ("output", "response"),
    "prompt": ("completion", "response"),
    "question": ("answer", "response"),
    "query": ("response", "answer"),
    "problem": ("solution", "answer"),
    "inputs": ("targets",),
    "input": ("output",),
}
"""Fields of a question, and those of its answer."""
CONTEXTS = ("input", "context")
"""Fields of a text that the instruction is about."""
SYSTEMS = ("system", "system_prompt")

Messages = list[Message]


def find_messages(record: Any, columns: Mapping[str, str] | None = None) -> Messages | None:
    """Messages with role and content, and what else `normal_message` finds; None if the record has no known shape.

    `columns`: see `mapped_fields`.

    >>> find_messages({"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi"}]})
    [{'role': 'user', 'content': 'Hello'}, {'role': 'assistant', 'content': 'Hi'}]
    """
    if isinstance(record, list):
        return turns(record, columns) or None
    if not isinstance(record, dict):
        return None
    record = mapped_fields(record, columns)
    for name in TURN_LISTS:
        if (found := turns(record.get(name), columns)) is not None:
            return system_message(record) + found
    for question, answers in PROMPTS.items():
        answer = next((name for name in answers if name in record), None)
        if question in record and answer is not None:
            asked = question_messages(record, question)
            answered = as_messages("assistant", record[answer])
            return system_message(record) + _history(record) + asked + answered if asked and answered else None
    for name in TEXT_LISTS:
        texts = record.get(name)
        if isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts):
            return system_message(record) + in_turn(texts)
    return None


def is_conversation(record: Mapping[str, Any]) -> bool:
    """Whether a record is a conversation even where nobody said so: question and answer may be columns of any table."""
    return any(turns(record.get(name)) for name in TURN_LISTS) or {"instruction", "output"} <= record.keys()


def mapped_fields(record: Mapping[str, Any], columns: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The fields by the names used here, in lower case.

    `columns`: names used here -> names in the file, "a.b" for a field of a field. If they name more than `role` and
    `content`, which are fields of the turns, then only the named ones are read.
    """
    fields = {name: path for name, path in (columns or {}).items() if name not in ("role", "content")}
    if not fields:
        return {str(name).lower(): value for name, value in record.items()}
    values = {name: field_value(record, path) for name, path in fields.items()}
    return {name: value for name, value in values.items() if value is not None}


def field_value(record: Mapping[str, Any], path: str) -> Any:
    """The field of that name in any case, or of that path; None without one."""
    names = {str(name).lower(): name for name in record}
    if (name := path if path in record else names.get(path.lower())) is not None:
        return record[name]
    head, _, rest = path.partition(".")
    inner = record.get(head)
    return field_value(inner, rest) if rest and isinstance(inner, Mapping) else None


def system_message(record: Mapping[str, Any]) -> Messages:
    """The message of a field `system`, if it has a text."""
    texts = (record.get(name) for name in SYSTEMS)
    return [{"role": "system", "content": text} for text in texts if isinstance(text, str) and text.strip()][:1]


def question_messages(record: Mapping[str, Any], question: str) -> Messages:
    """The messages of a question, with the text that it is about."""
    contexts = (record.get(name) for name in CONTEXTS if name != question)
    context = next((text for text in contexts if isinstance(text, str) and text.strip()), "")
    return as_messages("user", record[question], context)


def as_messages(role: str, value: Any, context: str = "") -> Messages:
    """One message of a text, or the messages of a list, of its JSON text, or of one object."""
    if isinstance(value, Mapping) and is_turn(value):
        value = [value]
    if (found := turns(value)) is not None:
        return found
    if isinstance(value, str):
        return [{"role": role, "content": f"{value}\n\n{context}" if context else value}]
    return []


def turns(value: Any, columns: Mapping[str, str] | None = None) -> Messages | None:
    """The messages of a list of turns, or of a cell of a table with such a list as text; None for anything else."""
    if isinstance(value, str) and value.lstrip().startswith(("[{", "[ {", "[\n")):
        value = _list_of_text(value)
    keys = columns or {}
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        return None
    return [normal_message(turn, keys.get("role"), keys.get("content")) for turn in value]


def _list_of_text(text: str) -> Any:
    """A list in JSON, or as Python prints it: pandas writes lists so into CSV."""
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None


def _history(record: Mapping[str, Any]) -> Messages:
    """Earlier questions with their answers (Alpaca of LLaMA-Factory)."""
    pairs = record.get("history")
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        return []
    return [message for pair in pairs for message in in_turn(pair)]


def in_turn(texts: Sequence[str]) -> Messages:
    """Messages of user and assistant in turn."""
    return [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]
