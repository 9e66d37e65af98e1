"""The OpenAPI 3.1 description of what is served, and its page: plain HTML, without scripts or foreign hosts."""

import html
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic.json_schema import models_json_schema

from groundup.serve.chat_protocol import ChatRequest, TokenizeRequest
from groundup.serve.openapi_responses import RESPONSE_SCHEMAS
from groundup.serve.protocol import CompletionRequest, DetokenizeRequest, EmbeddingRequest, TraceRequest
from groundup.serve.request_validation import NEUTRAL_FIELDS, RequestBody
from groundup.serve.responses_protocol import ResponsesRequest


@dataclass(frozen=True)
class Operation:
    """One path: its method, request, response and what it does.

    Attributes:
        answer: name of the schema in RESPONSE_SCHEMAS, or a content type.
        events: name of the schema of a stream's events.
    """

    path: str
    summary: str
    answer: str
    body: type[RequestBody] | None = None
    events: str | None = None
    is_public: bool = False


OPERATIONS = (
    Operation("/v1/models", "The served models: the base, its other names, its adapters", "ModelList"),
    Operation("/v1/models/{name}", "One model", "Model"),
    Operation("/v1/chat/completions", ChatRequest.__doc__ or "", "Chat", ChatRequest, "ChatChunk"),
    Operation("/v1/completions", CompletionRequest.__doc__ or "", "Completion", CompletionRequest, "Completion"),
    Operation("/v1/responses", "A response in its plain form", "Response", ResponsesRequest, "ResponseEvent"),
    Operation("/v1/embeddings", EmbeddingRequest.__doc__ or "", "Embeddings", EmbeddingRequest),
    Operation("/tokenize", TokenizeRequest.__doc__ or "", "Tokens", TokenizeRequest),
    Operation("/detokenize", DetokenizeRequest.__doc__ or "", "Text", DetokenizeRequest),
    Operation("/trace", TraceRequest.__doc__ or "", "Trace", TraceRequest),
    Operation("/health", "Whether the server answers", "Health", is_public=True),
    Operation("/metrics", "Metrics in Prometheus' format", "text/plain"),
    Operation("/openapi.json", "This description", "application/json", is_public=True),
)
ERRORS = {
    "400": "The request is not valid; `param` names the field.",
    "401": "No API key, or a wrong one.",
    "404": "Unknown model or path.",
    "405": "Another method is expected.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
    "415": "The body is not application/json.",
    "421": "The Host header is not a name of this server.",
    "429": "Over the limit of requests or tokens a minute; Retry-After says when to try again.",
    "500": "The model failed.",
    "503": "Too many requests are waiting, or the server is stopping; Retry-After says when to try again.",
}
REF = "#/components/schemas/{model}"


def openapi_description(*, has_key: bool) -> dict[str, Any]:
    """The description as JSON types. has_key: an API key is required, except for /health and this description."""
    bodies = [operation.body for operation in OPERATIONS if operation.body is not None]
    _, definitions = models_json_schema([(body, "validation") for body in bodies], by_alias=True, ref_template=REF)
    schemas = definitions["$defs"]
    neutral = {name: {"description": "Accepted, without effect."} for name in sorted(NEUTRAL_FIELDS)}
    for body in bodies:
        schema = schemas[body.__name__]
        schema["properties"] = {**schema["properties"], **neutral}
        schema["additionalProperties"] = False
    return {
        "openapi": "3.1.0",
        "info": {"title": "groundup", "version": "1", "description": "OpenAI's API for one model and its adapters."},
        "paths": {
            each.path: {"get" if each.body is None else "post": _operation(each, has_key)} for each in OPERATIONS
        },
        "components": {
            "schemas": schemas | RESPONSE_SCHEMAS,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}} if has_key else {},
        },
    }


def _operation(operation: Operation, has_key: bool) -> dict[str, Any]:
    needs_key = has_key and not operation.is_public
    if "/" in operation.answer:
        content: dict[str, Any] = {operation.answer: {"schema": {}}}
    else:
        content = {"application/json": {"schema": {"$ref": REF.format(model=operation.answer)}}}
    if operation.events:
        # without a type: some read it as that of the body, some as that of an event
        events = {"description": f"Events whose data is a {operation.events}; `stream`: true."}
        content["text/event-stream"] = {"schema": events}
    codes = ["400", "404", "408", "413", "415", "421", "429", "500", "503"] if operation.body else ["404", "421"]
    error = {"application/json": {"schema": {"$ref": REF.format(model="Error")}}}
    responses = {"200": {"description": "The answer", "content": content}}
    for code in ["401", *codes] if needs_key else codes:
        responses[code] = {"description": ERRORS[code], "content": error}
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": operation.path.strip("/").replace("/", "_").replace(".", "_").replace("{", "").replace("}", ""),
        "responses": responses,
        "security": [{"key": []}] if needs_key else [],
    }
    if "{name}" in operation.path:
        described["parameters"] = [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}]
    if operation.body is not None:
        schema = {"$ref": REF.format(model=operation.body.__name__)}
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return described


def description_page(description: dict[str, Any]) -> str:
    """The description for people: a section for each path with its fields."""
    schemas = description["components"]["schemas"]
    sections: list[str] = []
    for path, methods in description["paths"].items():
        ((method, operation),) = methods.items()
        sections.append(f"<h2>{method.upper()} <code>{html.escape(path)}</code></h2>")
        sections.append(f"<p>{html.escape(operation['summary'].strip())}</p>")
        if "requestBody" in operation:
            sections.append(_table(schemas, operation["requestBody"]["content"]["application/json"]["schema"]))
        kinds = operation["responses"]["200"]["content"]
        sections.append(f"<p>Answer: {html.escape(', '.join(kinds))}</p>")
        answer = kinds.get("application/json", {}).get("schema", {})
        if "$ref" in answer:
            sections.append(_table(schemas, answer))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>API</title>'
        '<meta name="viewport" content="width=device-width"><link rel="icon" href="/icon.svg"></head><body>'
        "<h1>API</h1><p>As JSON: <a href='/openapi.json'>/openapi.json</a></p>" + "".join(sections) + "</body></html>"
    )


def _table(schemas: dict[str, Any], schema: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{html.escape(name)}</code></td><td>{html.escape(kind)}</td></tr>"
        for name, kind in _fields(schemas, schema)
    )
    return f"<table><tr><th>field</th><th>type</th></tr>{rows}</table>"


def _fields(schemas: dict[str, Any], schema: dict[str, Any]) -> Iterator[tuple[str, str]]:
    found = schemas[schema["$ref"].rpartition("/")[2]]
    required = set(found.get("required", ()))
    for name, field in found.get("properties", {}).items():
        yield name, field.get("description") or _kind(field) + (", required" if name in required else "")


def _kind(schema: dict[str, Any]) -> str:
    """A schema in a few words."""
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(_kind(each) for each in schema[key]))
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    if "enum" in schema:
        return " or ".join(json.dumps(value) for value in schema["enum"])
    if "const" in schema:
        return json.dumps(schema["const"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    kind = schema.get("type", "any value")
    names: Sequence[tuple[str, str]] = (
        ("minimum", "at least"), ("exclusiveMinimum", "above"), ("maximum", "at most"), ("exclusiveMaximum", "below"),
    )  # fmt: skip
    limits = ", ".join(f"{words} {schema[key]:g}" for key, words in names if key in schema)
    return " or ".join(kind) if isinstance(kind, list) else kind + (f" ({limits})" if limits else "")
