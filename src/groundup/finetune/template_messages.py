"""Messages in the form that a chat template takes, and whether it can be trained with: one template is not like another.

Templates want the arguments of a call as an object (most) or as JSON text (DeepSeek-V3), know the role developer or not, leave
out calls that they do not know, or end an answer with nothing that generation could stop at.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

from groundup.artifacts.errors import UserError
from groundup.artifacts.json_file import shorten
from groundup.data.conversation_shapes import Messages
from groundup.finetune.training_data.read_stats import RecordDropped
from groundup.tokenizer import Tokenizer

CallForm = Literal["object", "text", "left out"]
FUNCTION, ID = "get_probe_9", "abcdefghi"
"""A name that no template has, and an id as Mistral's templates want it."""
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "get_probe", "description": "-", "parameters": {"type": "object", "properties": {}}},
}
THOUGHTS = (
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi.", "reasoning_content": "A greeting."},
)


def template_messages(tokenizer: Tokenizer, messages: Messages) -> Messages:
    """`messages` for the chat template of `tokenizer`: its role for a developer, its form of the arguments of calls.

    Raises RecordDropped for calls that the template leaves out.
    """
    if "developer" not in (tokenizer.chat_template or ""):  # most templates know no such role, and some leave it out
        messages = [each | {"role": "system"} if each["role"] == "developer" else each for each in messages]
    if not any(each.get("tool_calls") for each in messages):
        return messages
    form = call_form(tokenizer, tokenizer.chat_template)
    if form == "left out":
        raise RecordDropped("calls_left_out")
    return [
        each | {"tool_calls": [_with_arguments(call, form) for call in each["tool_calls"]]}
        if each.get("tool_calls")
        else each
        for each in messages
    ]


def prompt_ids(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] = ()
) -> list[int] | None:
    """The tokens of a prompt, before an answer; None if the chat template refuses it, and RecordDropped for calls left out."""
    try:
        names: dict[str, Any] = {"tools": list(tools)} if tools else {}
        return tokenizer.render_chat(
            template_messages(tokenizer, list(messages)), add_generation_prompt=True, **names  # type: ignore[arg-type]
        )  # fmt: skip
    except UserError:
        if tokenizer.chat_template is None:
            raise
        return None


@lru_cache(maxsize=8)
def call_form(tokenizer: Tokenizer, template: str | None) -> CallForm:
    """How the chat template of `tokenizer`, which is `template`, takes the arguments of calls."""
    call = {"id": ID, "type": "function", "function": {"name": FUNCTION, "arguments": {}}}
    for form in ("object", "text"):
        messages = [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "", "tool_calls": [_with_arguments(call, form)]},
            {"role": "tool", "content": "1", "name": FUNCTION, "tool_call_id": ID},
            {"role": "assistant", "content": "Hi."},
        ]
        variants: tuple[dict[str, Any], ...] = ({"tools": [TOOL]}, {})
        for names in variants:
            try:
                text = tokenizer.decode(tokenizer.render_chat(messages, **names))
            except UserError:
                continue
            return form if FUNCTION in text else "left out"
    return "object"  # refused in any form: each conversation is refused with a reason


def _with_arguments(call: Any, form: CallForm) -> Any:
    """A call with arguments as an object or as text; arguments that are no JSON stay."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        return call
    arguments = function.get("arguments")
    if form == "object" and isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return call
    elif form == "text" and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    function = {**function, "arguments": arguments}
    return {**call, "function": function} if "function" in call else function


def check_template(tokenizer: Tokenizer) -> None:
    """Raises UserError if the chat template cannot render two messages, or its answers have no end that could be learnt."""
    if tokenizer.chat_template is not None and tokenizer.end_of_turn_id is None:
        names = ", ".join(repr(tokenizer.token(id)) for id in sorted(tokenizer.stop_ids)) or "no token"
        raise UserError(
            f"the chat template {shorten(tokenizer.chat_template)} ends an answer without a special token, expected one at which "
            f"generation stops: {names}",
            hint="put eos_token after the answers in the template",
        )


def template_notice(tokenizer: Tokenizer) -> str | None:
    """What is to be said about training with the chat template; None for nothing."""
    sentences = {
        "as last": "earlier answers are learnt as they were when they were the last, which the chat template changes afterwards",
        "last only": "the chat template hides where earlier answers are: only the last of each conversation has a loss",
    }
    found = []
    form = _form(tokenizer, [*THOUGHTS, *THOUGHTS])
    if form in sentences:
        found.append(sentences[form])
    return "; ".join(found) or None


def _form(tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]]) -> str | None:
    try:
        return tokenizer.training_form(messages)
    except UserError:
        return None
