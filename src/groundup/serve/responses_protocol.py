"""POST /v1/responses in its plain form, as a chat: text and function calls in, text and function calls out.

Answers are not stored, so nothing refers to an earlier one. Files, images, built-in tools and background work are refused.
"""

import json
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from groundup.serve.api_error import ApiError
from groundup.serve.chat_protocol import MAX_MESSAGES, MAX_TOOLS, ChatRequest, TextContentPart, TextParts, ToolName
from groundup.serve.request_validation import RequestBody, parse_request


class _Item(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False, frozen=True)


class MessageItem(_Item):
    """A message; the assistant's may be an output item of an earlier response."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | TextParts

    def to_message(self) -> dict[str, Any]:
        return {"role": self.role, "content": self.content if isinstance(self.content, str) else _parts(self.content)}


class FunctionCallItem(_Item):
    """A call of an earlier response."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str

    def to_message(self) -> dict[str, Any]:
        function = {"name": self.name, "arguments": self.arguments}
        return {"role": "assistant", "tool_calls": [{"id": self.call_id, "type": "function", "function": function}]}


class FunctionResultItem(_Item):
    """The result of a call."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | TextParts

    def to_message(self) -> dict[str, Any]:
        content = self.output if isinstance(self.output, str) else _parts(self.output)
        return {"role": "tool", "tool_call_id": self.call_id, "content": content}


def _parts(parts: list[TextContentPart]) -> list[dict[str, str]]:
    return [{"type": "text", "text": part.text} for part in parts]


class ResponseTool(_Item):
    type: Literal["function"]
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionChoice(_Item):
    type: Literal["function"]
    name: ToolName


class TextFormat(_Item):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    json_schema: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None

    def to_response_format(self) -> dict[str, Any]:
        if self.type != "json_schema":
            return {"type": self.type}
        return {"type": self.type, "json_schema": {"name": self.name or "answer", "schema": self.json_schema}}


class TextOptions(_Item):
    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None


class ReasoningOptions(_Item):
    effort: str | None = None
    summary: None = None


class ResponsesRequest(RequestBody):
    """POST /v1/responses."""

    UNSUPPORTED: ClassVar[dict[str, tuple[Any, ...]]] = {
        "previous_response_id": (),
        "conversation": (),
        "background": (False,),
        "include": ([],),
        "prompt": (),
        "max_tool_calls": (),
        "truncation": ("disabled",),
        "top_logprobs": (0,),
    }

    input: (
        str
        | Annotated[
            list[FunctionCallItem | FunctionResultItem | MessageItem],
            Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True),
        ]
    )
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    tools: Annotated[list[ResponseTool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None

    @model_validator(mode="after")
    def _schema_is_given(self) -> "ResponsesRequest":
        form = self.text.format if self.text else None
        if form is not None and form.type == "json_schema" and form.json_schema is None:
            raise ApiError(400, "text.format.schema: Field required", param="text")
        return self

    def to_chat(self) -> ChatRequest:
        """The same request as a chat. Raises ApiError 400."""
        choice: Any = self.tool_choice
        if isinstance(choice, FunctionChoice):
            choice = {"type": "function", "function": {"name": choice.name}}
        fields: dict[str, Any] = {
            "messages": self._messages(),
            "max_completion_tokens": self.max_output_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "stream": self.stream,
            "tools": [_chat_tool(tool) for tool in self.tools] if self.tools else None,
            "tool_choice": choice,
            "parallel_tool_calls": self.parallel_tool_calls,
            "response_format": self.text.format.to_response_format() if self.text and self.text.format else None,
            "reasoning_effort": self.reasoning.effort if self.reasoning else None,
            "add_generation_prompt": True,
        }
        return parse_request(ChatRequest, json.dumps(fields).encode())

    def _messages(self) -> list[dict[str, Any]]:
        """Messages, in which calls of one turn are one message."""
        messages: list[dict[str, Any]] = [{"role": "system", "content": self.instructions}] if self.instructions else []
        if isinstance(self.input, str):
            return [*messages, {"role": "user", "content": self.input}]
        for item in self.input:
            message = item.to_message()
            if "tool_calls" in message and messages and messages[-1]["role"] == "assistant":
                messages[-1].setdefault("tool_calls", []).extend(message["tool_calls"])
            else:
                messages.append(message)
        return messages


def _chat_tool(tool: ResponseTool) -> dict[str, Any]:
    return {"type": "function", "function": tool.model_dump(exclude={"type"}, exclude_none=True)}
