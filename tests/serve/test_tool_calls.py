"""Tool calls in answers, by syntax: whole and in pieces."""

import json

import pytest

from groundup.serve.tool_calls import SYNTAXES, ToolCallParser, tool_syntax

MISTRAL, DEEPSEEK, GRANITE, TAGS, LLAMA = SYNTAXES
SCHEMAS = {"add": {"type": "object", "properties": {"a": {"type": "integer"}, "text": {"type": "string"}}}, "now": {}}
DEEP = "<｜tool▁calls▁begin｜>{}<｜tool▁calls▁end｜>"
V3 = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{}\n```<｜tool▁call▁end｜>"
V31 = "<｜tool▁call▁begin｜>add<｜tool▁sep｜>{}<｜tool▁call▁end｜>"
CALL = '{"name": "add", "arguments": {"a": 1}}'
ONE = [("add", {"a": 1})]

CASES = [
    (TAGS, f"<tool_call>\n{CALL}\n</tool_call>", "", ONE),
    (TAGS, f"I add.\n\n<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{CALL}\n</tool_call>\n", "I add.", ONE * 2),
    (TAGS, f"<tool_call>\n{CALL}", "", ONE),
    (TAGS, "<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n<arg_key>text</arg_key>\n"
           "<arg_value>12</arg_value>\n</tool_call>", "", [("add", {"a": 1, "text": "12"})]),
    (TAGS, "<tool_call>now</tool_call>", "", [("now", {})]),
    (TAGS, "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=text>\na\nb\n</parameter>\n</function>\n"
           "</tool_call>", "", [("add", {"a": 1, "text": "a\nb"})]),
    (TAGS, "1 < 2 <tool_cal", "1 < 2 <tool_cal", []),
    (TAGS, "<tool_call>{broken</tool_call> and", "<tool_call>{broken</tool_call> and", []),
    (TAGS, '<tool_call>{"name": "now", "arguments": 7}', '<tool_call>{"name": "now", "arguments": 7}', []),
    (TAGS, "  Hello ", "  Hello ", []),
    (MISTRAL, f"[TOOL_CALLS][{CALL}, {CALL}]", "", ONE * 2),
    (MISTRAL, '[TOOL_CALLS]add[ARGS]{"a": 1}[TOOL_CALLS]now[CALL_ID]x[ARGS]{}', "", [*ONE, ("now", {})]),
    (GRANITE, f"<|tool_call|>[{CALL}]", "", ONE),
    (GRANITE, f"<|tool_call|>[{CALL}]<|/tool_call|>", "", ONE),
    (DEEPSEEK, "Now. " + DEEP.format(V3.format('{"a": 1}') + "\n" + V3.format('{"a": 1}')), "Now.", ONE * 2),
    (DEEPSEEK, DEEP.format(V31.format('{"a": 1}')), "", ONE),
    (LLAMA, '{"name": "add", "parameters": {"a": 1}}', "", ONE),
    (LLAMA, '<|python_tag|>{"name": "add", "parameters": {"a": 1}}; {"name": "now", "parameters": {}}', "", [*ONE, ("now", {})]),
    (LLAMA, 'The object {"name": "add", "parameters": {}}', 'The object {"name": "add", "parameters": {}}', []),
    (LLAMA, '{"just": "an answer"}', '{"just": "an answer"}', []),
]  # fmt: skip


@pytest.mark.parametrize(("syntax", "text", "content", "calls"), CASES)
@pytest.mark.parametrize("size", [1, 3, 10_000])
def test_calls_and_content(syntax, text, content, calls, size):
    parser, said = ToolCallParser(syntax, SCHEMAS), ""
    for begin in range(0, len(text), size):
        said += parser.push(text[begin : begin + size])[0]
    said += parser.push("", last=True)[0]
    assert [(call.name, json.loads(call.arguments)) for call in parser.calls] == calls
    assert said == content
    assert len({call.id for call in parser.calls}) == len(calls)


def test_text_without_calls_is_not_held_back():
    parser = ToolCallParser(TAGS, SCHEMAS)
    assert parser.push("Hello")[0] == "Hello"
    assert parser.push(" there <b>")[0] == " there <b>"


def test_ids_of_mistral_have_nine_letters():
    parser = ToolCallParser(MISTRAL, SCHEMAS)
    parser.push(f"[TOOL_CALLS][{CALL}]", last=True)
    assert len(parser.calls[0].id) == 9
    assert parser.calls[0].id.isalnum()


def test_syntax_of_published_templates():
    from scripted_model import TEMPLATES

    expected = {
        "qwen2_5": TAGS, "qwen3": TAGS, "qwen3_5_think": TAGS, "glm4moe": TAGS, "smollm3": None, "mistral_nemo": MISTRAL,
        "deepseekv3": None, "granite_3_3": GRANITE, "phi3": None, "gptoss": None,
    }  # fmt: skip
    assert {path.stem: tool_syntax(path.read_text(encoding="utf-8")) for path in TEMPLATES.glob("*.jinja")} == expected
