"""JSON schemas of the server's responses, for its OpenAPI description."""

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
COUNT: Schema = {"type": "integer", "minimum": 0}
FLAG: Schema = {"type": "boolean"}
ANY_OBJECT: Schema = {"type": "object"}


def _object(optional: tuple[str, ...] = (), /, **properties: Schema) -> Schema:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(item: Schema) -> Schema:
    return {"type": "array", "items": item}


def _maybe(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _constant(value: str) -> Schema:
    return {"const": value}


FINISH_REASON: Schema = {"enum": ["stop", "length", "tool_calls", "error", None]}
LOGPROB = {"token": TEXT, "logprob": NUMBER, "bytes": _list(COUNT)}
CALL = _object(id=TEXT, type=_constant("function"), function=_object(name=TEXT, arguments=TEXT))
CHAT_LOGPROBS = _maybe(_object(content=_list(_object(**LOGPROB, top_logprobs=_list(_object(**LOGPROB))))))
COMPLETION_LOGPROBS = _maybe(
    _object(
        tokens=_list(TEXT),
        token_logprobs=_list(_maybe(NUMBER)),
        top_logprobs=_maybe(_list(_maybe(ANY_OBJECT))),
        text_offset=_list(COUNT),
    )
)
PROMPT_LOGPROBS = _list(
    _maybe({"type": "object", "additionalProperties": _object(logprob=NUMBER, rank=COUNT, decoded_token=TEXT)})
)
"""By token id; null for the first token of the prompt."""
COMMON = {"id": TEXT, "created": COUNT, "model": TEXT}

RESPONSE_SCHEMAS: dict[str, Schema] = {
    "Error": _object(error=_object(message=TEXT, type=TEXT, param=_maybe(TEXT), code=_maybe(TEXT))),
    "Health": _object(status=_constant("ok")),
    "Model": _object(
        id=TEXT,
        object=_constant("model"),
        created=COUNT,
        owned_by=TEXT,
        root=TEXT,
        context_length=COUNT,
        dtype=TEXT,
        starters=_list(TEXT),
        architecture={"enum": ["decoder", "encoder", "encoder_decoder"]},
        chat=FLAG,
        trace=FLAG,
    ),
    "ModelList": _object(object=_constant("list"), data=_list(_ref("Model"))),
    "Usage": _object(prompt_tokens=COUNT, completion_tokens=COUNT, total_tokens=COUNT),
    "Completion": _object(
        ("usage",),
        **COMMON,
        object=_constant("text_completion"),
        choices=_list(
            _object(
                ("prompt_logprobs",),
                index=COUNT,
                text=TEXT,
                logprobs=COMPLETION_LOGPROBS,
                finish_reason=FINISH_REASON,
                prompt_logprobs=PROMPT_LOGPROBS,
            )
        ),
        usage=_ref("Usage"),
    ),
    "Chat": _object(
        ("prompt_logprobs",),
        **COMMON,
        object=_constant("chat.completion"),
        choices=_list(
            _object(
                index=COUNT,
                message=_object(
                    ("tool_calls",), role=_constant("assistant"), content=_maybe(TEXT), tool_calls=_list(CALL)
                ),
                logprobs=CHAT_LOGPROBS,
                finish_reason=FINISH_REASON,
            )
        ),
        usage=_ref("Usage"),
        prompt_logprobs=PROMPT_LOGPROBS,
    ),
    "ChatChunk": _object(
        ("usage",),
        **COMMON,
        object=_constant("chat.completion.chunk"),
        choices=_list(
            _object(
                index=COUNT,
                delta=_object(
                    ("role", "content", "tool_calls"),
                    role=_constant("assistant"),
                    content=TEXT,
                    tool_calls=_list(CALL | {"properties": CALL["properties"] | {"index": COUNT}}),
                ),
                logprobs=CHAT_LOGPROBS,
                finish_reason=FINISH_REASON,
            )
        ),
        usage=_ref("Usage"),
    ),
    "Response": _object(
        id=TEXT,
        object=_constant("response"),
        created_at=COUNT,
        model=TEXT,
        status={"enum": ["completed", "incomplete", "in_progress"]},
        output=_list({
            "anyOf": [
                _object(
                    id=TEXT, type=_constant("message"), status=TEXT, role=_constant("assistant"),
                    content=_list(_object(type=_constant("output_text"), text=TEXT, annotations=_list({}))),
                ),
                _object(id=TEXT, type=_constant("function_call"), call_id=TEXT, name=TEXT, arguments=TEXT, status=TEXT),
            ]
        }),
        usage=_maybe(_object(input_tokens=COUNT, output_tokens=COUNT, total_tokens=COUNT)),
        error={"type": "null"},
        incomplete_details=_maybe(_object(reason=TEXT)),
        tools=_list(ANY_OBJECT),
    ),
    "ResponseEvent": _object(("response",), type=TEXT, sequence_number=COUNT, response=_ref("Response")),
    "Embeddings": _object(
        object=_constant("list"),
        model=TEXT,
        data=_list(
            _object(
                object=_constant("embedding"),
                index=COUNT,
                embedding={"anyOf": [_list(NUMBER), TEXT | {"contentEncoding": "base64"}]},
            )
        ),
        usage=_object(prompt_tokens=COUNT, total_tokens=COUNT),
    ),
    "Tokens": _object(count=COUNT, max_model_len=COUNT, tokens=_list(COUNT), token_strs=_maybe(_list(_maybe(TEXT)))),
    "Text": _object(prompt=TEXT),
    "Trace": _object(
        text=TEXT,
        coverage=NUMBER,
        min_words=COUNT,
        corpus_tokens=COUNT,
        spans=_list(
            _object(
                begin=COUNT, end=COUNT, text=TEXT, words=COUNT, tokens=COUNT, count=COUNT, num_documents=COUNT,
                documents=_list(
                    _object(source=TEXT, id=TEXT, license=TEXT, count=COUNT, before=TEXT, span=TEXT, after=TEXT)
                ),
            )
        ),
    ),
}  # fmt: skip
