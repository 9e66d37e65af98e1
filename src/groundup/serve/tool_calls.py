"""Tool calls in the text of an answer, by the syntax of the model's chat template.

    <tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>      Hermes, Qwen 2.5 and 3, SmolLM3
    <tool_call><function=add><parameter=a>1</parameter></function></tool_call>   Qwen 3 Coder and 3.5
    <tool_call>add<arg_key>a</arg_key><arg_value>1</arg_value></tool_call>       GLM 4.5
    [TOOL_CALLS][{"name": "add", "arguments": {"a": 1}}]               Mistral 7B to Nemo
    [TOOL_CALLS]add[ARGS]{"a": 1}                                      Mistral Small 3 and later
    <|tool_call|>[{"name": "add", "arguments": {"a": 1}}]              Granite 3, Phi 4
    <｜tool▁calls▁begin｜> ... <｜tool▁calls▁end｜>                     DeepSeek V3, R1, V3.1
    {"name": "add", "parameters": {"a": 1}}                            Llama 3.1 and 3.2

What is not well-formed stays text.
"""

import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ToolCall:
    """A call of a function; `arguments` is a JSON object as text."""

    name: str
    arguments: str
    id: str


@dataclass(frozen=True)
class ToolSyntax:
    """How a family of templates writes calls.

    Attributes:
        sign: a text in the chat template that shows the syntax.
        begin, end: around calls in an answer; begin "": an answer that begins with "{"; end "": the end of the answer.
        id_length: letters of a call's id, which the template may check.
        in_list: JSON calls are elements of a list.
        tokens: special tokens of the syntax, whose text stays in the answer.
    """

    sign: str
    begin: str
    end: str = ""
    id_length: int = 24
    in_list: bool = False
    tokens: tuple[str, ...] = ()

    def parse(self, body: str, schemas: Mapping[str, Any]) -> list[ToolCall] | None:
        """The calls between `begin` and `end`; None if they are not well-formed. `schemas`: those of arguments, by function."""
        try:
            found = list(self._calls(body.strip(), schemas))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        return [ToolCall(name, arguments, self._new_id()) for name, arguments in found] or None

    def _new_id(self) -> str:
        name = secrets.token_hex(12)
        return name[: self.id_length] if self.id_length < len(name) else f"call_{name}"

    def _calls(self, body: str, schemas: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        if "<｜tool▁call▁begin｜>" in body:
            for match in DEEPSEEK_CALL.finditer(body):
                yield match["name"].strip(), _object_text(json.loads(match["arguments"]))
        elif "[ARGS]" in body:
            for part in body.split("[TOOL_CALLS]"):
                name, _, arguments = part.partition("[ARGS]")
                yield name.partition("[CALL_ID]")[0].strip(), _object_text(json.loads(arguments))
        elif body.startswith("<function="):
            for match in FUNCTION_TAG.finditer(body):
                pairs = {pair["key"]: pair["value"] for pair in PARAMETER_TAG.finditer(match["body"])}
                yield match["name"], _typed_arguments(pairs, schemas.get(match["name"]))
        elif "<arg_key>" in body:
            name = body.partition("<arg_key>")[0].strip()
            pairs = {pair["key"].strip(): pair["value"] for pair in ARGUMENT_TAGS.finditer(body)}
            yield name, _typed_arguments(pairs, schemas.get(name))
        elif body in schemas:  # GLM 4.5, without arguments
            yield body, "{}"
        else:
            yield from _json_calls(body)


DEEPSEEK_CALL = re.compile(
    r"<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>)?(?P<name>[^<\n]+?)(?:<｜tool▁sep｜>|\n```json\n)"
    r"(?P<arguments>\{.*?\})\s*(?:\n```)?(?:<｜tool▁call▁end｜>|$)",
    re.DOTALL,
)
FUNCTION_TAG = re.compile(r"<function=(?P<name>[^>\n]+)>(?P<body>.*?)(?:</function>|$)", re.DOTALL)
PARAMETER_TAG = re.compile(r"<parameter=(?P<key>[^>\n]+)>\n?(?P<value>.*?)\n?</parameter>", re.DOTALL)
ARGUMENT_TAGS = re.compile(r"<arg_key>(?P<key>.*?)</arg_key>\s*<arg_value>(?P<value>.*?)</arg_value>", re.DOTALL)

DEEPSEEK_TOKENS = tuple(f"<｜tool▁{name}｜>" for name in ("calls▁begin", "calls▁end", "call▁begin", "call▁end", "sep"))
PYTHON_TAG = "<|python_tag|>"
TAGS = ("<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")

SYNTAXES = (
    ToolSyntax(
        "[TOOL_CALLS]", "[TOOL_CALLS]", id_length=9, in_list=True, tokens=("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]")
    ),
    ToolSyntax(DEEPSEEK_TOKENS[0], DEEPSEEK_TOKENS[0], DEEPSEEK_TOKENS[1], tokens=DEEPSEEK_TOKENS),
    ToolSyntax(
        "<|tool_call|>", "<|tool_call|>", "<|/tool_call|>", in_list=True, tokens=("<|tool_call|>", "<|/tool_call|>")
    ),
    ToolSyntax("<tool_call>", "<tool_call>", "</tool_call>", tokens=TAGS),
    ToolSyntax('"parameters":', "", tokens=(PYTHON_TAG,)),
)
"""In order of search; the last is that of Llama 3, whose template asks for JSON."""


def tool_syntax(template: str) -> ToolSyntax | None:
    """The syntax of a chat template's tool calls; None if it takes no tools, or writes calls in another way."""
    if not re.search(r"\b(?:xml_|available_)?tools\b", template):
        return None
    return next((syntax for syntax in SYNTAXES if syntax.sign in template), None)


@dataclass
class ToolCallParser:
    """The text of one answer, as it arrives, split into content and calls.

    Args:
        schemas: by name, the functions that may be called, with the schemas of their arguments.
        in_call: the prompt ends with the beginning of a call.

    Attributes:
        calls: found so far.

    >>> parser = ToolCallParser(syntax, {"add": schema})
    >>> content, calls = parser.push('<tool_call>{"name": "add", "arguments": {}}</tool_call>')
    """

    syntax: ToolSyntax
    schemas: Mapping[str, Any]
    in_call: bool = False
    calls: list[ToolCall] = field(default_factory=list)
    _pending: str = ""
    _blank: str = ""  # white space at the end of the content so far, which is none before a call
    _has_content: bool = False

    def push(self, text: str, *, last: bool = False) -> tuple[str, list[ToolCall]]:
        """Content and calls that `text` completes; last: the answer ends here."""
        self._pending += text
        content, found = "", []
        while True:
            if not self.in_call:
                before, self.in_call, self._pending = self._split_at_call(last)
                content += before
                if not self.in_call:
                    break
            body, end, rest = self._pending.partition(self.syntax.end) if self.syntax.end else (self._pending, "", "")
            if not end and not last:
                break
            calls = self.syntax.parse(body, self.schemas)
            if calls is None:
                content += self.syntax.begin + body + end
            found += calls or []
            self._pending, self.in_call = rest, False
            if not end:
                break
        self.calls += found
        return self._without_blank(content, last), found

    def _split_at_call(self, last: bool) -> tuple[str, bool, str]:
        """Content, whether a call follows it, and the rest; what may be the beginning of a call is kept as the rest."""
        text, begin = self._pending, self.syntax.begin
        if begin:
            before, sign, rest = text.partition(begin)
            if sign or last:
                return before, bool(sign), rest
            kept = next((n for n in range(min(len(begin) - 1, len(text)), 0, -1) if text.endswith(begin[:n])), 0)
            return text[: len(text) - kept], False, text[len(text) - kept :]
        start = text.lstrip().removeprefix(PYTHON_TAG).lstrip()
        if self._has_content or not (start.startswith("{") or (not last and PYTHON_TAG.startswith(start))):
            return text, False, ""
        is_call = start.startswith("{")
        return "", is_call, start if is_call else text

    def _without_blank(self, content: str, last: bool) -> str:
        text = self._blank + content
        visible = text if last and not self.calls else text.rstrip()
        self._blank = "" if self.calls else text[len(visible) :]
        self._has_content |= bool(visible)
        return visible


def _json_calls(body: str) -> Iterator[tuple[str, str]]:
    """Calls as JSON: one object, a list of them, or several separated by semicolons or white space."""
    decoder = json.JSONDecoder()
    while body:
        value, end = decoder.raw_decode(body)
        for call in value if isinstance(value, list) else [value]:
            call = call.get("function", call) if isinstance(call.get("function", ""), dict) else call
            arguments = call["arguments"] if "arguments" in call else call["parameters"]
            arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
            yield _function_name(call["name"]), _object_text(arguments)
        body = body[end:].lstrip("; \n\t")


def _function_name(name: Any) -> str:
    if not isinstance(name, str) or not name:
        raise ValueError("a call without the name of a function")
    return name


def _object_text(arguments: Any) -> str:
    if not isinstance(arguments, dict):
        raise ValueError("arguments that are no JSON object")
    return json.dumps(arguments, ensure_ascii=False)


def _typed_arguments(pairs: Mapping[str, str], schema: Any) -> str:
    """Arguments that were written as text: those that the schema does not call a string are JSON, where they can be read."""
    properties = schema.get("properties", {}) if isinstance(schema, dict) else {}
    arguments: dict[str, Any] = {}
    for name, text in pairs.items():
        kind = properties.get(name, {}).get("type") if isinstance(properties.get(name, {}), dict) else None
        try:
            arguments[name] = text if kind == "string" else json.loads(text)
        except ValueError:
            arguments[name] = text
    return _object_text(arguments)


def argument_schemas(tools: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The schemas of arguments by function name, of tools as templates read them."""
    return {tool["function"]["name"]: tool["function"].get("parameters") for tool in tools}
