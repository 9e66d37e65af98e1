"""Chat templates: render a conversation to text with Jinja, and find the spans of the assistant's turns.

Templates come with downloaded models, so they are untrusted code: they run on JSON types only, in the sandbox of
template_sandbox.py.

Assistant spans come from `{% generation %}` blocks, as in transformers, or from rendering the conversation turn by turn.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser

from groundup.artifacts.errors import UserError
from groundup.artifacts.json_file import shorten
from groundup.tokenizer.special_token_escaping import ASSISTANT_BEGIN, ASSISTANT_END
from groundup.tokenizer.template_sandbox import MAX_TEMPLATE_LENGTH, TemplateEnvironment

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
"""OpenAI's ChatML: turns between <|im_start|>role and <|im_end|>."""

LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] | trim + '<|eot_id|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] | trim + '<|eot_id|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
"""Llama 3: text turns of the template of Meta-Llama-3-8B-Instruct."""

PLAIN = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '### Assistant:\\n' }}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
    "{% elif message['role'] == 'user' %}{{ '### User:\\n' + message['content'] }}"
    "{% else %}{{ message['content'] }}{% endif %}"
    "{{ '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Assistant:\\n' }}{% endif %}"
)
"""For models without tokens of turns: headers of plain text, and the end-of-text token after each answer."""


def render(
    template: str, messages: Sequence[Message], *, add_generation_prompt: bool = False, **names: Any
) -> tuple[str, list[Span]]:
    """The conversation as text, and the character spans of `{% generation %}` blocks in it.

    `names` are the template's other variables: bos_token, eos_token, tools, ...
    Raises UserError when the template fails, or refuses the conversation.
    """
    try:
        variables = _to_json_types({**names, "messages": messages, "add_generation_prompt": add_generation_prompt})
        _environment().start(variables)
        marked = _compile(template).render(variables)
    except Exception as error:  # a template is a program: it can raise anything
        kind = "" if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: "
        message = " ".join(f"{kind}{error}"[:1000].split())
        raise UserError(f"chat template: {message}", hint=_hint(messages)) from None
    text: list[str] = []
    spans: list[Span] = []
    length, begins = 0, []
    for segment in re.split(f"([{ASSISTANT_BEGIN}{ASSISTANT_END}])", marked):
        if segment == ASSISTANT_BEGIN:
            begins.append(length)
        elif segment == ASSISTANT_END:
            begin = begins.pop()
            if not begins:
                spans.append((begin, length))
        else:
            text.append(segment)
            length += len(segment)
    return "".join(text), spans


def assistant_spans(
    template: str, messages: Sequence[Message], last_turn_only: bool = False, **names: Any
) -> tuple[str, list[Span]]:
    """The conversation as text, and the character spans of the assistant's turns (or of the last one), end of turn included.

    Without `{% generation %}` in the template, a turn is the difference between the conversation rendered up to the turn
    and the generation prompt before it.
    Raises UserError when the template renders earlier turns differently as the conversation grows.
    """
    text, spans = render(template, messages, **names)
    if "generation" in template and re.search(r"{%-?\s*generation\s*-?%}", template):
        return text, spans[-1:] if last_turn_only else spans
    turns = [index for index, message in enumerate(messages) if message.get("role") == "assistant"]
    for index in turns[-1:] if last_turn_only else turns:
        prompt, _ = render(template, messages[:index], add_generation_prompt=True, **names)
        until, _ = render(template, messages[: index + 1], **names)
        if not (text.startswith(until) and until.startswith(prompt)):
            raise UserError(
                f"message {index}: the span of the assistant's turn is unknown, because the chat template is not incremental",
                hint="put {% generation %} ... {% endgeneration %} around the assistant's turn in the template",
            )
        spans.append((len(prompt), len(until)))
    return text, spans


class _GenerationBlock(jinja2.ext.Extension):
    """`{% generation %} ... {% endgeneration %}`: its output between two placeholders."""

    tags = {"generation"}  # noqa: RUF012 (required by Jinja)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        content = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_mark"), [], [], content).set_lineno(line)

    def _mark(self, caller: Any) -> str:
        return ASSISTANT_BEGIN + caller() + ASSISTANT_END


@cache
def _environment() -> TemplateEnvironment:
    return TemplateEnvironment([_GenerationBlock])


@lru_cache(maxsize=32)
def _compile(template: str) -> jinja2.Template:
    if len(template) > MAX_TEMPLATE_LENGTH:
        raise ValueError(f"{len(template):,} letters, expected at most {MAX_TEMPLATE_LENGTH:,}")
    return _environment().from_string(template)


def _to_json_types(value: Any) -> Any:
    """A copy of JSON types only, because templates can call the methods of other objects."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): _to_json_types(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json_types(item) for item in value]
    if isinstance(value, str | int | float):
        return next(kind(value) for kind in (str, int, float) if isinstance(value, kind))
    return f"<{type(value).__name__}>"


SHOWN_ROLES = 10


def _hint(messages: Sequence[Message]) -> str:
    roles = [str(message.get("role")) for message in messages[:SHOWN_ROLES]]
    # A role of another person may be anything: with line breaks, it is shown as a literal.
    shown = ", ".join(role if role.isprintable() and len(role) < 40 else shorten(role) for role in roles)
    more = " ..." if len(messages) > SHOWN_ROLES else ""
    return f"the roles are: {shown}{more}; some templates require user and assistant to alternate"
