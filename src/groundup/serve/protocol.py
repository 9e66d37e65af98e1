"""Request schemas of OpenAI's API, with validation.

Unknown fields are ignored. Known but unsupported fields are refused unless they have their default value: an answer
that silently ignores an option is worse than an error.
"""

from collections.abc import Collection, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from groundup.generate import SamplingParams
from groundup.serve.api_error import ApiError

MAX_STOPS = 16
MAX_PROMPTS = 64
MAX_MESSAGES = 4096
MAX_INPUTS = 2048
MAX_CHOICES = 64
MAX_BIASES = 1024

StopString = Annotated[str, StringConstraints(min_length=1, max_length=256)]
InputText = Annotated[str, StringConstraints(min_length=1)]
TokenId = Annotated[int, Field(ge=0)]
TokenIds = Annotated[list[TokenId], Field(min_length=1)]
LogitBias = Annotated[
    dict[Annotated[str, StringConstraints(pattern=r"^\d{1,9}$")], Annotated[float, Field(ge=-100, le=100)]],
    Field(max_length=MAX_BIASES),
]
"""Token id, as text (JSON has no other keys), to the number that is added to its logit."""

IGNORED_IF_DEFAULT: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    # of vLLM and llama.cpp
    "grammar": ("",),
    "json_schema": ({},),
    "guided_json": ({},),
    "guided_regex": ("",),
    "guided_choice": ([],),
    "guided_grammar": ("",),
    "structured_outputs": ({},),
    "use_beam_search": (False,),
    "length_penalty": (1,),
    "continue_final_message": (False,),
    "add_generation_prompt": (True,),
    "allowed_token_ids": ([],),
    "prompt_logprobs": (),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "truncate_prompt_tokens": (),
    "mirostat": (0,),
    "xtc_probability": (0,),
    "dry_multiplier": (0,),
}
"""Unsupported fields, and the values (beside null) with which they are ignored."""


class StreamOptions(BaseModel):
    include_usage: bool = False


class SamplingRequest(BaseModel):
    """Fields of both request types. Strict types: "7" and true are not numbers."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, frozen=True)

    model: str | None = None
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    typical_p: float | None = Field(None, gt=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: LogitBias | None = None
    min_tokens: int | None = Field(None, ge=0)
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_STOPS)] | None = None
    ignore_eos: bool | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: StopString | Annotated[list[StopString], Field(max_length=MAX_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _reject_unsupported(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for name, ignored in IGNORED_IF_DEFAULT.items():
                value = values.get(name)
                if value is not None and value not in ignored:
                    raise ApiError(400, f"{name} = {_short(value)} is not supported", param=name, code="unsupported")
        return values

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def num_choices(self) -> int:
        return self.n or 1

    def stop_ids(self, of_tokenizer: Collection[int]) -> Collection[int]:
        """The tokens that end the text."""
        return {*(() if self.ignore_eos else of_tokenizer), *(self.stop_token_ids or ())}

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling_params(self, temperature: float) -> SamplingParams:
        """Sampling parameters with OpenAI's defaults, but `temperature`; top_k = -1 means no limit, as in vLLM."""
        return SamplingParams(
            temperature=temperature if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(self.top_k or 0, 0),
            min_p=self.min_p or 0.0,
            typical_p=self.typical_p or 1.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias={int(token): bias for token, bias in (self.logit_bias or {}).items()},
            min_tokens=self.min_tokens or 0,
            seed=None if self.seed is None else self.seed % 2**64,
        )


class CompletionRequest(SamplingRequest):
    """POST /v1/completions: continue one or several prompts."""

    prompt: (
        str
        | TokenIds
        | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)]
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS)]
    )
    logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        return _as_list(self.prompt)


class TextContentPart(BaseModel):
    type: Literal["text"]
    text: str


class RequestMessage(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextContentPart]

    def to_chat_message(self) -> dict[str, str]:
        """Message for a chat template; role `developer` becomes `system`."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatRequest(SamplingRequest):
    """POST /v1/chat/completions: the next message of the assistant."""

    messages: list[RequestMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)

    @model_validator(mode="after")
    def _top_needs_logprobs(self) -> "ChatRequest":
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs = true", param="top_logprobs")
        return self


class EmbeddingRequest(BaseModel):
    """POST /v1/embeddings: a vector for each of one or several texts."""

    model_config = ConfigDict(strict=True, frozen=True)

    input: (
        InputText
        | TokenIds
        | Annotated[list[InputText], Field(min_length=1, max_length=MAX_INPUTS)]
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_INPUTS)]
    )
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1)

    @property
    def inputs(self) -> Sequence[str | list[int]]:
        return _as_list(self.input)


RequestType = TypeVar("RequestType", CompletionRequest, ChatRequest, EmbeddingRequest)


def _as_list(value: Any) -> Sequence[str | list[int]]:
    """One text or one list of token ids as a list of one; lists of them unchanged."""
    return [value] if isinstance(value, str) or isinstance(value[0], int) else value


def parse_request(kind: type[RequestType], body: bytes) -> RequestType:
    """Parse and validate a request. Raises ApiError 400 with the name of the first invalid field."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as failure:
        errors = failure.errors(include_url=False, include_context=False, include_input=False)
    first = errors[0]
    if first["type"] == "json_invalid":
        raise ApiError(
            400, "the request is not JSON: " + first["msg"].removeprefix("Invalid JSON: "), code="invalid_json"
        )
    if not first["loc"]:
        raise ApiError(400, "the request is not a JSON object", code="invalid_value")
    field = str(first["loc"][0])
    of_field = [error for error in errors if error["loc"][0] == field]
    messages = dict.fromkeys(_format_location(error["loc"]) + error["msg"] for error in _of_best_form(of_field))
    raise ApiError(400, f"{field}: {'; or '.join(list(messages)[:4])}", param=field, code="invalid_value")


def _of_best_form(errors: Sequence[Any]) -> Sequence[Any]:
    """Of a field with several forms, the errors of the one whose types fit; all, if none does."""
    return [error for error in errors if not error["type"].endswith("_type")] or errors


def _format_location(location: tuple[int | str, ...]) -> str:
    """Location of an error within a field: messages[3].role is "[3].role: "."""
    parts = [part for part in location[1:] if isinstance(part, int) or "[" not in part]  # without names of forms
    inner = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts]
    return "".join(inner).lstrip(".") + ": " if any(isinstance(part, int) for part in location) else ""


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
