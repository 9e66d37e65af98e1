"""From a conversation to the one text that the model sees, by a Jinja template in a sandbox.

Templates come with foreign models, so they are programs of strangers: they run in Jinja's immutable sandbox, they see
plain data only, and nothing they can reach writes, imports or waits.

What the assistant says is told by `{% generation %}` blocks, as in transformers, or by rendering turn after turn.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from groundup.artifacts.errors import UserError
from groundup.tokenizer.control_tokens import ASSISTANT_BEGIN, ASSISTANT_END, PLACEHOLDER

Message = Mapping[str, Any]
Span = tuple[int, int]

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}"
    "{{ '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""Turns between <|im_start|>role and <|im_end|>, as OpenAI's ChatML has them."""


def render(
    template: str, messages: Sequence[Message], *, add_generation_prompt: bool = False, **names: Any
) -> tuple[str, list[Span]]:
    """The conversation as text, and the character spans of `{% generation %}` blocks in it.

    `names` is what else the template may read: bos_token, eos_token, tools, ...
    Raises UserError when the template is broken, or refuses the conversation.
    """
    try:
        marked = _compile(template).render(
            messages=_to_json_types(messages),
            add_generation_prompt=add_generation_prompt,
            **_to_json_types(names),
        )
    except jinja2.TemplateError as error:
        raise UserError(f"the chat template refuses: {error}", hint=_hint(messages)) from None
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(
            f"the chat template fails: {type(error).__name__}: {error}", hint=_hint(messages)
        ) from None
    text: list[str] = []
    spans: list[Span] = []
    length, begins = 0, []
    for part in re.split(f"([{ASSISTANT_BEGIN}{ASSISTANT_END}])", marked):
        if part == ASSISTANT_BEGIN:
            begins.append(length)
        elif part == ASSISTANT_END:
            begin = begins.pop()
            if not begins:
                spans.append((begin, length))
        else:
            text.append(part)
            length += len(part)
    return "".join(text), spans


def assistant_spans(template: str, messages: Sequence[Message], **names: Any) -> tuple[str, list[Span]]:
    """The conversation as text, and the character spans that the assistant says, each with its end of turn.

    Templates with `{% generation %}` say it themselves. For others a turn is what rendering adds to the prompt that
    the model would have been given at that point; white space after the last control token is left out later.

    Raises UserError when that cannot be told, because the template writes an earlier turn in another way later on.
    """
    text, spans = render(template, messages, **names)
    if "generation" in template and re.search(r"{%-?\s*generation\s*-?%}", template):
        return text, spans
    for index, message in enumerate(messages):
        if message.get("role") != "assistant":
            continue
        prompt, _ = render(template, messages[:index], add_generation_prompt=True, **names)
        until, _ = render(template, messages[: index + 1], **names)
        if not (text.startswith(until) and until.startswith(prompt)):
            raise UserError(
                f"cannot tell what the assistant says in message {index}: the chat template is not incremental",
                hint="mark it in the template with {% generation %} ... {% endgeneration %}",
            )
        spans.append((len(prompt), len(until)))
    return text, spans


class _GenerationBlock(jinja2.ext.Extension):
    """`{% generation %} ... {% endgeneration %}`: put marks around what the block writes."""

    tags = {"generation"}  # noqa: RUF012 (the name and type that Jinja asks for)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Any) -> str:
        return ASSISTANT_BEGIN + caller() + ASSISTANT_END


class _Namespace(jinja2.utils.Namespace):
    """Jinja's namespace without names that begin with an underscore: those lead out of the sandbox."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a chat template may not store {name!r}")
        super().__setitem__(name, value)


@lru_cache(maxsize=32)
def _compile(template: str) -> jinja2.Template:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {
        "raise_exception": _raise_template_error,
        "strftime_now": _now,
        "namespace": _Namespace,
    }
    return environment.from_string(template)


def _raise_template_error(message: str) -> None:
    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes for HTML, which no model was trained on. Marks are never escaped: they would be lost."""
    text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys)
    if not ensure_ascii:
        return text
    return re.sub(
        r"[^\x00-\x7f]",
        lambda match: match[0] if PLACEHOLDER.match(match[0]) else json.dumps(match[0])[1:-1],
        text,
    )


def _to_json_types(value: Any) -> Any:
    """A copy made of JSON's types alone: methods of richer objects would be open to the template."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): _to_json_types(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json_types(item) for item in value]
    if isinstance(value, str | int | float):
        return next(kind(value) for kind in (str, int, float) if isinstance(value, kind))
    return f"<{type(value).__name__}>"


def _hint(messages: Sequence[Message]) -> str:
    roles = ", ".join(str(message.get("role")) for message in messages)
    return f"the conversation's roles are: {roles}; the template may want user and assistant in turn"
