"""The messages of a record, in the shapes in which conversations are published.

{"messages": [{"role": "user", "content": "Hello"}, ...]}           OpenAI, Hugging Face
{"conversations": [{"from": "human", "value": "Hello"}, ...]}       ShareGPT
{"instruction": "Translate", "input": "Hello", "output": "Hallo"}   Alpaca; Dolly: context, response
{"prompt": "Hello", "completion": "Hi"}                             also: question and answer, text or messages
"""

from collections.abc import Mapping
from typing import Any

TURN_LISTS = ("messages", "conversations", "conversation")
ROLE_NAMES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}
"""Other names of the roles user and assistant."""
PROMPTS = {
    "instruction": ("output", "response"),
    "prompt": ("completion", "response"),
    "question": ("answer", "response"),
}
"""Fields of a question, and those of its answer."""
CONTEXTS = ("input", "context")
"""Fields of a text that the instruction is about."""

Messages = list[dict[str, Any]]


def find_messages(record: Any) -> Messages | None:
    """Messages with role and content; None if the record has no known shape.

    >>> find_messages({"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi"}]})
    [{'role': 'user', 'content': 'Hello'}, {'role': 'assistant', 'content': 'Hi'}]
    """
    if isinstance(record, list):
        return _turns(record) or None
    if not isinstance(record, dict):
        return None
    record = {str(name).lower(): value for name, value in record.items()}
    for name in TURN_LISTS:
        if (turns := _turns(record.get(name))) is not None:
            return _system(record) + turns
    for question, answers in PROMPTS.items():
        answer = next((name for name in answers if name in record), None)
        if question in record and answer is not None:
            context = next(
                (text for name in CONTEXTS if isinstance(text := record.get(name), str) and text.strip()), ""
            )
            asked = _as_messages("user", record[question], context)
            answered = _as_messages("assistant", record[answer])
            return _system(record) + asked + answered if asked and answered else None
    return None


def is_conversation(record: Mapping[str, Any]) -> bool:
    """Whether a record is a conversation even where nobody said so: question and answer may be columns of any table."""
    return any(_turns(record.get(name)) for name in TURN_LISTS) or {"instruction", "output"} <= record.keys()


def _system(record: Mapping[str, Any]) -> Messages:
    text = record.get("system")
    return [{"role": "system", "content": text}] if isinstance(text, str) and text.strip() else []


def _as_messages(role: str, value: Any, context: str = "") -> Messages:
    """One message of a text, or the messages of a list."""
    if isinstance(value, str):
        return [{"role": role, "content": f"{value}\n\n{context}" if context else value}]
    return _turns(value) or []


def _turns(value: Any) -> Messages | None:
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        return None
    return [
        {"role": _role(turn.get("role", turn.get("from"))), "content": _content(turn.get("content", turn.get("value")))}
        for turn in value
    ]


def _role(name: Any) -> Any:
    return ROLE_NAMES.get(name, name) if isinstance(name, str) else name


def _content(value: Any) -> Any:
    """Text; of a list of parts the texts, if there is nothing else in it, such as images."""
    if isinstance(value, list) and value and all(isinstance(part, dict) and "text" in part for part in value):
        return "\n".join(str(part["text"]) for part in value)
    return value
