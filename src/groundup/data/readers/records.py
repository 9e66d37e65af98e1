"""Records of JSON and tables: their text, their id, and what is said if the column of the text is missing."""

from collections.abc import Iterator
from typing import Any

from groundup.data.conversation_shapes import find_messages
from groundup.data.document import Document, DroppedDocument, ReadResult
from groundup.data.held_out_conversations import HELD_OUT, is_held_out, opening_turn
from groundup.data.readers.encoding import decode_bytes
from groundup.data.readers.reader_options import ReaderOptions

ID_KEYS = ("id", "url", "title", "path")
TEXT_KEYS = ("text", "content", "body", "article", "document", "story", "raw_content", "code")
MISSING_COLUMN = "missing_column"
"""Reason to drop a record or table without the column of the text."""
CONVERSATIONS = "conversations"
"""Reason to leave a file to finetune.conversations; its kind, too."""
MESSAGES = "messages"
"""Column of a conversation, whatever its shape."""
MAX_DEPTH = 4
"""Of fields within fields that are looked at."""
SHOWN_COLUMNS = 20


def record_document(record: dict[str, Any], position: str, options: ReaderOptions) -> ReadResult:
    """The document of a record, or the reason why there is none."""
    found, value = _column(record, options.text_column)
    text = value_text(value)
    if (opening := opening_turn(value)) and is_held_out(opening, options.held_out_conversations):
        return DroppedDocument(HELD_OUT, position)
    if text is None and options.by_content:
        text = _likely_text(record)
    if text:
        return Document(text, record_id(record, position))
    return DroppedDocument("no_text", position) if found or text == "" else missing_column(record, position, options)


def missing_column(names: Any, position: str, options: ReaderOptions) -> DroppedDocument:
    """What is said of a record or table without the column of the text; `names`: its columns, or a record."""
    known = [name for key in names for name in _column_names(names, key)]
    shown = ", ".join(known[:SHOWN_COLUMNS]) + (" ..." if len(known) > SHOWN_COLUMNS else "")
    return DroppedDocument(MISSING_COLUMN, position, f"no column {options.text_column}; columns: {shown or 'none'}")


def _column_names(names: Any, key: Any) -> list[str]:
    """A column's name, or those of the fields within it."""
    inner = names[key] if isinstance(names, dict) else None
    return [f"{key}.{name}" for name in inner] if isinstance(inner, dict) and inner else [str(key)]


def has_column(record: dict[str, Any], path: str) -> bool:
    """Whether a record has a column, or a field of that path."""
    return _column(record, path)[0]


def _column(record: dict[str, Any], path: str) -> tuple[bool, Any]:
    """Whether a record has a column, and its value; "message.content": the field of a field; messages: of any shape."""
    if path == MESSAGES and (messages := find_messages(record)):
        return True, messages
    if path in record:
        return True, record[path]
    value: Any = record
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            return False, None
        value = value[name]
    return True, value


def value_text(value: Any) -> str | None:
    """Text of a value: a string, bytes, a list of them as paragraphs, or a list of messages, whose contents are the text;
    None for anything else, or nothing.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return decode_bytes(value).text
    if isinstance(value, list) and value:
        parts = [part.get("content") if isinstance(part, dict) else part for part in value]
        texts = [value_text(part) for part in parts if isinstance(part, str | bytes)]
        return "\n\n".join(text for text in texts if text) if len(texts) == len(parts) else None
    return None


def _likely_text(record: dict[str, Any]) -> str | None:
    """The text under a usual name, at any depth, else the longest text."""
    values = [(key, text) for key, value in _fields(record) if (text := value_text(value)) is not None]
    named = (text for name in TEXT_KEYS for key, text in values if key == name)
    return next(named, None) or max((text for _, text in values), key=len, default=None)


def _fields(record: dict[str, Any], depth: int = 1) -> Iterator[tuple[str, Any]]:
    yield from record.items()
    for value in record.values():
        if isinstance(value, dict) and depth < MAX_DEPTH:
            yield from _fields(value, depth + 1)


def record_id(record: dict[str, Any], default: str) -> str:
    """Id, URL, title or path of a record, else `default`."""
    return next((str(record[key]) for key in ID_KEYS if isinstance(record.get(key), str | int)), default)
