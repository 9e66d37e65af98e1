"""Checks and repairs of the order of turns, after their shape is known."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from groundup.data.chat_message import Message
from groundup.finetune.training_data.read_stats import RecordDropped

ROLES = ("system", "developer", "user", "assistant", "tool")
DoubledRoles = Literal["merge", "keep", "drop"]


def check_messages(messages: Sequence[Message]) -> None:
    """Raises RecordDropped for a message without a known role, or without text or calls."""
    for message in messages:
        if message["role"] not in ROLES:
            raise RecordDropped("unknown_role")
        if message["content"] is not None and not isinstance(message["content"], str):
            raise RecordDropped("not_text")
        is_blank = not (message["content"] or "").strip()
        if is_blank and message["role"] != "tool" and not _says_more(message):
            raise RecordDropped("empty_turn")


def _says_more(message: Message) -> bool:
    """Whether a message without content is one all the same."""
    return bool(message.get("tool_calls") or message.get("reasoning_content"))


def merge_doubled(messages: Sequence[Message], choice: DoubledRoles) -> tuple[list[Message], bool]:
    """(messages in which no two of one role are behind each other, whether that changed them); results of tools may be.

    Raises RecordDropped with choice = drop.
    """
    merged: list[Message] = []
    is_changed = False
    for message in messages:
        if choice == "keep" or not merged or message["role"] == "tool" or merged[-1]["role"] != message["role"]:
            merged.append(message)
        elif choice == "drop":
            raise RecordDropped("wrong_order")
        else:
            merged[-1] = _join(merged[-1], message)
            is_changed = True
    return merged, is_changed


def _join(first: Message, second: Message) -> Message:
    joined: dict[str, Any] = first | second
    for key in ("content", "reasoning_content"):
        texts = [text for message in (first, second) if (text := message.get(key))]
        if texts or key == "content":
            joined[key] = "\n\n".join(texts)
    if calls := [*first.get("tool_calls", ()), *second.get("tool_calls", ())]:
        joined["tool_calls"] = calls
    if not (first.get("weight", 1) and second.get("weight", 1)):
        joined["weight"] = 0
    return joined


def tools_of(record: Mapping[str, Any]) -> list[Any]:
    """The definitions in the field `tools` of a record: a list, or its JSON text."""
    tools = record.get("tools")
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError):
            return []
    return tools if isinstance(tools, list) else []
