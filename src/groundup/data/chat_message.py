"""One message of a conversation in the form that chat templates of transformers take, from the forms that are published.

{"role": "assistant", "content": "Hi", "reasoning_content": "A greeting.",
 "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}]}

Roles are system, developer, user, assistant and tool. `content` is a text; a list of texts is joined by line breaks, as the
server does. `arguments` are an object, also where they are published as its JSON text (OpenAI).
"""

import json
from collections.abc import Mapping
from typing import Any

Message = dict[str, Any]

ROLE_NAMES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "observation": "tool",
    "function": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "ipython": "tool",
}
"""Other names of the roles user, assistant and tool."""
CALL_ROLES = ("function_call", "tool_call")
"""Roles of an assistant's message whose content is the JSON text of a call."""
ROLE_KEYS = ("role", "from", "speaker")
CONTENT_KEYS = ("content", "value", "text")
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
WEIGHT_KEYS = ("weight", "train")
"""OpenAI's weight 0 or 1 of a message; Axolotl's `train` is false or true."""


def normal_message(turn: Mapping[str, Any], role_key: str | None = None, content_key: str | None = None) -> Message:
    """The message of a turn. A role or content of another kind stays as it is, for the reader to refuse.

    >>> normal_message({"from": "human", "value": "Hello"})
    {'role': 'user', 'content': 'Hello'}
    """
    role = turn.get(role_key) if role_key else _first(turn, ROLE_KEYS)
    content = _join_texts(turn.get(content_key) if content_key else _first(turn, CONTENT_KEYS))
    calls = _calls(turn)
    if role in CALL_ROLES:
        role = "assistant"
        if found := _parse_calls(content):
            calls, content = found, ""
    message = {"role": ROLE_NAMES.get(role, role) if isinstance(role, str) else role, "content": content}
    reasoning = _first(turn, REASONING_KEYS)
    if isinstance(reasoning, str) and reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = calls
    if content is None and (calls or reasoning):
        message["content"] = ""
    for key in ("name", "tool_call_id"):
        if isinstance(turn.get(key), str):
            message[key] = turn[key]
    weight = _first(turn, WEIGHT_KEYS)
    if isinstance(weight, int | float) and not weight:
        message["weight"] = 0
    return message


def is_turn(value: Any) -> bool:
    """Whether a value looks like a message: an object with a role, and a content or calls."""
    return (
        isinstance(value, Mapping)
        and "parent_id" not in value
        and any(key in value for key in ROLE_KEYS)
        and any(key in value for key in (*CONTENT_KEYS, "tool_calls", "function_call"))
    )


def _first(turn: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    return next((turn[key] for key in keys if turn.get(key) is not None), None)


def _join_texts(value: Any) -> Any:
    """Text; of a list of parts the texts, if there is nothing else in it, such as images."""
    if isinstance(value, list) and value:
        parts = [part.get("text") if isinstance(part, dict) else part for part in value]
        if len(texts := [part for part in parts if isinstance(part, str)]) == len(parts):
            return "\n".join(texts)
    return value


def _calls(turn: Mapping[str, Any]) -> list[dict[str, Any]]:
    calls = turn.get("tool_calls")
    if isinstance(calls, str):
        calls = _from_json(calls)
    if not calls and turn.get("function_call"):
        calls = [turn["function_call"]]
    return [_call(call) for call in calls if isinstance(call, Mapping)] if isinstance(calls, list) else []


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    inner = call.get("function")
    function = inner if isinstance(inner, Mapping) else call
    arguments = function.get("arguments", function.get("parameters"))
    parsed = _from_json(arguments) if isinstance(arguments, str) else arguments
    named = {"name": function.get("name"), "arguments": parsed if isinstance(parsed, Mapping) else arguments or {}}
    return {"type": "function"} | ({"id": call["id"]} if isinstance(call.get("id"), str) else {}) | {"function": named}


def _parse_calls(content: Any) -> list[dict[str, Any]]:
    """Calls of a JSON text: one, or a list of them; none of another text."""
    value = _from_json(content) if isinstance(content, str) else content
    calls = value if isinstance(value, list) else [value]
    return [_call(call) for call in calls] if all(isinstance(call, dict) and "name" in call for call in calls) else []


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
