"""The grammar of an answer: JSON of a schema, a form that the request gives, or a call of a tool."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.generate import GrammarCompiler
from groundup.generate.constrained_decoding import Grammar
from groundup.serve.chat_protocol import ChatRequest, NamedToolChoice
from groundup.serve.protocol import StructuredOutputs
from groundup.serve.tool_calls import ToolSyntax

GrammarBuilder = Callable[[GrammarCompiler], Grammar]


def structured_grammar(form: StructuredOutputs) -> GrammarBuilder:
    """The grammar of `structured_outputs`."""
    if form.json_schema is not None:
        return lambda compiler: compiler.json_schema(form.json_schema)
    if form.regex is not None:
        return lambda compiler: compiler.regex(form.regex or "")
    if form.choice is not None:
        return lambda compiler: compiler.choice(form.choice or ())
    return lambda compiler: compiler.lark(form.grammar or "")


def chat_grammar(body: ChatRequest, syntax: ToolSyntax | None, schemas: Mapping[str, Any]) -> GrammarBuilder | None:
    """The grammar of the answer to a chat; None: any text. With `tool_choice`, that of one call after the sign of a call."""
    if body.forces_call and syntax is not None:
        choice = body.tool_choice
        wanted = [choice.function.name] if isinstance(choice, NamedToolChoice) else list(schemas)
        return lambda compiler: _call_grammar(compiler, syntax, {name: schemas[name] for name in wanted})
    if body.response_format is not None and (schema := body.response_format.schema_of_answer) is not None:
        return lambda compiler: compiler.json_schema(schema)
    return None if body.structured_outputs is None else structured_grammar(body.structured_outputs)


def _call_grammar(compiler: GrammarCompiler, syntax: ToolSyntax, schemas: Mapping[str, Any]) -> Grammar:
    arguments = "parameters" if not syntax.begin else "arguments"
    before, after = ("[", "]") if syntax.in_list else ("", "")
    rules = [f"start: {' | '.join(f'call{number}' for number in range(len(schemas)))}"]
    for number, (name, schema) in enumerate(schemas.items()):
        try:
            compiler.json_schema(schema)
        except UserError as error:
            raise UserError(f"tools: {name}: {error.message}", hint=error.hint) from None
        begin = json.dumps(f'{before}{{"name": {json.dumps(name)}, "{arguments}": ')
        rules.append(f"call{number}: {begin} %json {json.dumps(schema)} {json.dumps('}' + after)}")
    return compiler.lark("\n".join(rules))
