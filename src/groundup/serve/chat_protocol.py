"""Request schemas of chats: messages, tools, the form of the answer."""

import json
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from groundup.serve.api_error import ApiError
from groundup.serve.protocol import UNSUPPORTED_SAMPLING, SamplingRequest
from groundup.serve.request_validation import RequestBody

MAX_MESSAGES = 4096
MAX_TOOLS = 128

ToolName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


class _Part(BaseModel):
    """A part of a request. Fields that clients send back from earlier answers, such as annotations, have no effect."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, frozen=True)


class TextContentPart(_Part):
    type: Literal["text", "input_text", "output_text"]
    text: str


TextParts = Annotated[list[TextContentPart], Field(fail_fast=True)]


class CalledFunction(_Part):
    name: str
    arguments: str | dict[str, Any]


class RequestToolCall(_Part):
    """A call in an earlier message of the assistant."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction

    def to_template(self) -> dict[str, Any]:
        """The call as chat templates read it, whose arguments are an object."""
        arguments = self.function.arguments
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments or "{}")
            except (ValueError, RecursionError):
                arguments = self.function.arguments
        function = {"name": self.function.name, "arguments": arguments}
        return {"id": self.id, "type": "function", "function": function}


class RequestMessage(_Part):
    """A message of any role; content may be null beside tool_calls only."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | TextParts | None = None
    name: str | None = None
    tool_calls: Annotated[list[RequestToolCall], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None

    @model_validator(mode="after")
    def _complete(self) -> "RequestMessage":
        if self.tool_calls and self.role != "assistant":
            raise ValueError(f"tool_calls in a message of the role {self.role}, expected assistant")
        if self.role == "tool" and self.tool_call_id is None:
            raise ValueError("tool_call_id: Field required")
        if self.content is None and not self.tool_calls:
            raise ValueError("content: Field required")
        return self

    @property
    def text(self) -> str | None:
        return self.content if self.content is None or isinstance(self.content, str) else _joined(self.content)

    def to_chat_message(self) -> dict[str, Any]:
        """Message for a chat template; role `developer` becomes `system`."""
        message: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role, "content": self.text}
        if self.tool_calls:
            message["tool_calls"] = [call.to_template() for call in self.tool_calls]
        more = {"name": self.name, "tool_call_id": self.tool_call_id, "reasoning_content": self.reasoning_content}
        return message | {name: value for name, value in more.items() if value is not None}


Messages = Annotated[list[RequestMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]


def _joined(parts: list[TextContentPart]) -> str:
    return "".join(part.text for part in parts)


class ToolFunction(_Part):
    """What a tool is called, what it does, and the JSON schema of its arguments."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class RequestTool(_Part):
    type: Literal["function"]
    function: ToolFunction

    def to_template(self) -> dict[str, Any]:
        parameters = self.function.parameters or {"type": "object", "properties": {}}
        function = {
            "name": self.function.name,
            "description": self.function.description or "",
            "parameters": parameters,
        }
        return {"type": "function", "function": function}


class NamedFunction(_Part):
    name: ToolName


class NamedToolChoice(_Part):
    type: Literal["function"]
    function: NamedFunction


class JsonSchemaFormat(_Part):
    """A JSON schema with a name; "strict" is always true."""

    model_config = ConfigDict(populate_by_name=True)

    name: str
    description: str | None = None
    json_schema: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(_Part):
    """The form of the answer: text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> "ResponseFormat":
        if self.type == "json_schema" and (self.json_schema is None or self.json_schema.json_schema is None):
            raise ValueError("json_schema.schema: Field required")
        return self

    @property
    def schema_of_answer(self) -> dict[str, Any] | None:
        """The JSON schema; None: text."""
        if self.type == "json_schema" and self.json_schema is not None:
            return self.json_schema.json_schema
        return {"type": "object"} if self.type == "json_object" else None


class ConversationRequest(RequestBody):
    """What becomes a prompt: messages and tools."""

    messages: Messages
    tools: Annotated[list[RequestTool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None

    @property
    def continues_message(self) -> bool:
        """Whether the answer continues the last message, which is then the assistant's and without calls."""
        if self.continue_final_message is not None:
            return self.continue_final_message
        return self.messages[-1].role == "assistant" and self.add_generation_prompt is not True

    @model_validator(mode="after")
    def _check_end(self) -> "ConversationRequest":
        last = self.messages[-1]
        if self.continues_message and (last.role != "assistant" or last.tool_calls):
            found = "a tool call" if last.tool_calls else f"the role {last.role}"
            raise ApiError(
                400,
                f"the last message has {found}, expected "
                + (
                    "a message of the role tool after it"
                    if last.tool_calls
                    else "assistant, whose message is continued"
                ),
                param="messages",
            )
        if self.continues_message and self.add_generation_prompt:
            raise ApiError(400, "both continue_final_message and add_generation_prompt", param="continue_final_message")
        return self


class ChatRequest(SamplingRequest, ConversationRequest):
    """POST /v1/chat/completions: the next message of the assistant."""

    UNSUPPORTED: ClassVar[dict[str, tuple[Any, ...]]] = {
        **UNSUPPORTED_SAMPLING,
        "functions": ([],),
        "function_call": ("none", "auto"),
        "audio": (),
        "web_search_options": (),
        "verbosity": ("medium",),
    }

    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tool_choice: Literal["none", "auto", "required"] | NamedToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None

    @model_validator(mode="after")
    def _check_combinations(self) -> "ChatRequest":
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs = true", param="top_logprobs")
        if self.add_generation_prompt is False and not self.continues_message:
            raise ApiError(
                400, "add_generation_prompt = false without an assistant's message to continue",
                param="add_generation_prompt",
            )  # fmt: skip
        names = {tool.function.name for tool in self.tools or ()}
        if isinstance(self.tool_choice, NamedToolChoice) and self.tool_choice.function.name not in names:
            raise ApiError(
                400, f"tool_choice: no tool is named {self.tool_choice.function.name!r}", param="tool_choice"
            )
        if self.tool_choice == "required" and not names:
            raise ApiError(400, "tool_choice = 'required' without tools", param="tool_choice")
        forms = [
            name
            for name, given in (
                ("tools", bool(self.callable_tools)),
                ("response_format", self.response_format is not None and self.response_format.type != "text"),
                ("structured_outputs", self.structured_outputs is not None),
            )
            if given
        ]
        if len(forms) > 1:
            raise ApiError(
                400, f"{forms[1]} together with {forms[0]} is not supported", param=forms[1], code="unsupported"
            )
        if self.forces_call and self.continues_message:
            raise ApiError(400, "tool_choice with a message to continue is not supported", param="tool_choice")
        return self

    @property
    def form_field(self) -> str:
        """The field that says what form the answer has."""
        return "tools" if self.forces_call else "response_format" if self.response_format else "structured_outputs"

    @property
    def forces_call(self) -> bool:
        """Whether the answer is a call."""
        return self.tool_choice not in (None, "none", "auto")

    @property
    def callable_tools(self) -> list[RequestTool]:
        """The tools that the answer may call."""
        return [] if self.tool_choice == "none" else self.tools or []


class TokenizeRequest(RequestBody):
    """POST /tokenize: the tokens of a text, or of a conversation as the chat template writes it."""

    prompt: str | None = None
    messages: Messages | None = None
    tools: Annotated[list[RequestTool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    model: str | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    return_token_strs: bool | None = None

    @model_validator(mode="after")
    def _one_input(self) -> "TokenizeRequest":
        if (self.prompt is None) == (self.messages is None):
            raise ApiError(400, "expected one of prompt and messages", param="prompt")
        return self
