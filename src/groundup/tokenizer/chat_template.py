"""Chat templates: render a conversation to text with Jinja, as transformers does.

Templates come with downloaded models, so they are untrusted code: they run on JSON types only, in the sandbox of
template_sandbox.py. What is null in a message is left out, because many templates write None for it.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache, lru_cache
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser

from groundup.artifacts.errors import UserError
from groundup.artifacts.json_file import shorten
from groundup.tokenizer.special_token_escaping import ASSISTANT_BEGIN, ASSISTANT_END, UNFINISHED
from groundup.tokenizer.template_sandbox import MAX_TEMPLATE_LENGTH, TemplateEnvironment

Message = Mapping[str, Any]
Span = tuple[int, int]

FIXED_DATE = datetime(2024, 7, 26)
"""For templates with a date, such as Llama 3.1, which has this one where none is given."""

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
    template: str,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = False,
    now: datetime | None = None,
    **names: Any,
) -> tuple[str, list[Span]]:
    """The conversation as text, and the character spans of `{% generation %}` blocks in it.

    now: the date for templates that write one; by default always the same, so that equal conversations give equal ids.
    `names` are the template's other variables: bos_token, eos_token, tools, documents, ...
    Raises UserError when the template fails, or refuses the conversation.
    """
    try:
        variables = _to_json_types({"tools": None, "documents": None, **names})
        variables |= {"messages": [_message(each) for each in messages], "add_generation_prompt": add_generation_prompt}
        _environment().start(variables, now or FIXED_DATE)
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


def render_unfinished(template: str, messages: Sequence[Message], **names: Any) -> str:
    """The conversation as text up to the end of the last message's content, which an answer continues.

    White space at its end stays, unless the template removes it: as in transformers' `continue_final_message`.
    Raises UserError as `render` does, and when the template does not write that content.
    """
    mark = UNFINISHED + " "
    last = {**messages[-1], "content": f"{messages[-1].get('content') or ''}{mark}"}
    text, _ = render(template, [*messages[:-1], last], **names)
    end = text.rfind(UNFINISHED)
    if end < 0:
        raise UserError("chat template: it does not write the last message", hint=_hint(messages))
    return text[:end] if text.startswith(mark, end) else text[:end].rstrip()


REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
"""Names of an answer's thoughts; templates read the first, those of gpt-oss the second."""


def _message(message: Message) -> dict[str, Any]:
    """A copy of JSON types without what is null, whose thoughts have the names that templates read."""
    fields = {name: value for name, value in _to_json_types(message).items() if value is not None}
    thoughts = next((fields[name] for name in REASONING_FIELDS if name in fields), None)
    return fields if thoughts is None else {"thinking": thoughts, **fields, "reasoning_content": thoughts}


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
