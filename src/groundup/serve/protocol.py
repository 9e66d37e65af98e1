"""Request schemas of OpenAI's API: sampling, completions, embeddings, tokens. Those of chats are in chat_protocol.py."""

from collections.abc import Collection, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints, model_validator

from groundup.generate import SamplingParams
from groundup.serve.api_error import ApiError
from groundup.serve.request_validation import RequestBody

MAX_STOPS = 16
MAX_PROMPTS = 64
MAX_INPUTS = 2048
MAX_CHOICES = 64
MAX_BIASES = 1024
MAX_TOKENS = 1_000_000
MAX_TRACED_CHARACTERS = 20_000

MAX_REQUESTED_BEAMS = 16
BEAM_FIELDS = ("use_beam_search", "length_penalty")
NOT_WITH_BEAMS = (
    "stream", "echo", "temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "logit_bias", "min_tokens", "stop", "structured_outputs",
)  # fmt: skip
"""A search finds the likeliest text, and samples none."""
NEUTRAL_WITH_BEAMS = {"top_p": 1, "top_k": -1, "typical_p": 1, "repetition_penalty": 1}
"""Of them, values beside 0 that change nothing, which clients send as their defaults."""

StopString = Annotated[str, StringConstraints(min_length=1, max_length=256)]
InputText = Annotated[str, StringConstraints(min_length=1)]
TokenId = Annotated[int, Field(ge=0)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]
LogitBias = Annotated[
    dict[Annotated[str, StringConstraints(pattern=r"^\d{1,9}$")], Annotated[float, Field(ge=-100, le=100)]],
    Field(max_length=MAX_BIASES),
]
"""Token id, as text (JSON has no other keys), to the number that is added to its logit."""

UNSUPPORTED_SAMPLING: dict[str, tuple[Any, ...]] = {
    "modalities": (["text"],),
    # of vLLM and llama.cpp
    "grammar": ("",),
    "json_schema": ({},),
    "guided_json": ({},),
    "guided_regex": ("",),
    "guided_choice": ([],),
    "guided_grammar": ("",),
    "use_beam_search": (False,),
    "length_penalty": (1,),
    "allowed_token_ids": ([],),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "truncate_prompt_tokens": (),
    "mirostat": (0,),
    "xtc_probability": (0,),
    "dry_multiplier": (0,),
}


class StreamOptions(RequestBody):
    """Usage in the last chunk of a stream; `include_obfuscation`, padding against observers of the network, has no effect."""

    UNSUPPORTED: ClassVar[dict[str, tuple[Any, ...]]] = {"continuous_usage_stats": (False,)}

    include_usage: bool = False
    include_obfuscation: bool | None = None


class StructuredOutputs(RequestBody):
    """The form of the answer, as vLLM names it: one of a JSON schema, a regular expression, texts, a Lark grammar."""

    json_schema: dict[str, Any] | str | None = Field(None, alias="json")
    regex: str | None = None
    choice: Annotated[list[InputText], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True)] | None = None
    grammar: str | None = None

    @model_validator(mode="after")
    def _one_form(self) -> "StructuredOutputs":
        if sum(form is not None for form in (self.json_schema, self.regex, self.choice, self.grammar)) != 1:
            raise ApiError(400, "expected one of json, regex, choice and grammar", param="structured_outputs")
        return self


class SamplingRequest(RequestBody):
    """Fields of completions and chats."""

    UNSUPPORTED: ClassVar[dict[str, tuple[Any, ...]]] = UNSUPPORTED_SAMPLING

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
    prompt_logprobs: int | None = Field(None, ge=0, le=20)
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_STOPS, fail_fast=True)] | None = None
    ignore_eos: bool | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: StopString | Annotated[list[StopString], Field(max_length=MAX_STOPS, fail_fast=True)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    structured_outputs: StructuredOutputs | None = None

    @model_validator(mode="after")
    def _check_prompt_logprobs(self) -> "SamplingRequest":
        if self.stream and self.prompt_logprobs is not None:
            raise ApiError(400, "prompt_logprobs with stream: they are part of a whole answer", param="prompt_logprobs")
        return self

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def num_candidates(self) -> int | None:
        """Samples of a prompt of which the most likely `n` are returned; None: `n`."""
        return None

    @property
    def num_choices(self) -> int:
        return self.num_candidates or self.n or 1

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
    """POST /v1/completions: continue one or several prompts; an encoder-decoder translates or summarizes them."""

    prompt: (
        str
        | TokenIds
        | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]
    )
    max_tokens: int | None = Field(None, ge=0)
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool | None = None
    best_of: int | None = Field(None, ge=1, le=MAX_CHOICES)
    use_beam_search: bool | None = None
    length_penalty: float | None = Field(None, ge=-10, le=10)
    target_language: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None

    UNSUPPORTED: ClassVar[dict[str, tuple[Any, ...]]] = {
        **{name: values for name, values in UNSUPPORTED_SAMPLING.items() if name not in BEAM_FIELDS},
        "suffix": ("",),
    }

    @model_validator(mode="after")
    def _check_combinations(self) -> "CompletionRequest":
        if self.max_tokens == 0 and not self.echo:
            raise ApiError(400, "max_tokens = 0 without echo, expected at least 1", param="max_tokens")
        if self.best_of is not None and self.best_of < (self.n or 1):
            raise ApiError(400, f"best_of = {self.best_of}, expected at least n = {self.n or 1}", param="best_of")
        if self.use_beam_search:
            self._check_beam_search()
        elif self.length_penalty not in (None, 1):
            raise ApiError(400, "length_penalty without use_beam_search", param="length_penalty")
        elif self.stream and self.num_candidates is not None:
            raise ApiError(400, "best_of with stream: the best answers are known at the end", param="best_of")
        return self

    def _check_beam_search(self) -> None:
        given = ((name, getattr(self, name)) for name in NOT_WITH_BEAMS)
        if other := next((name for name, value in given if value and value != NEUTRAL_WITH_BEAMS.get(name)), None):
            raise ApiError(400, f"{other} with use_beam_search is not supported", param=other, code="unsupported")
        if self.logprobs is not None or self.prompt_logprobs is not None:
            name = "logprobs" if self.logprobs is not None else "prompt_logprobs"
            raise ApiError(400, f"{name} with use_beam_search is not supported", param=name, code="unsupported")
        if self.num_beams > MAX_REQUESTED_BEAMS:
            raise ApiError(
                400,
                f"{self.num_beams} beams, the larger of best_of and n, expected at most {MAX_REQUESTED_BEAMS}",
                param="best_of",
            )

    @property
    def num_beams(self) -> int:
        """Beams of a search: `best_of` as in vLLM, else four, of which the best `n` are returned."""
        return self.best_of or max(self.n or 1, 4)

    @property
    def num_candidates(self) -> int | None:
        return self.best_of if self.best_of is not None and self.best_of > (self.n or 1) else None

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        return _as_list(self.prompt)


class EmbeddingRequest(RequestBody):
    """POST /v1/embeddings: a vector for each of one or several texts."""

    input: (
        InputText
        | TokenIds
        | Annotated[list[InputText], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True)]
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True)]
    )
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1)

    @property
    def inputs(self) -> Sequence[str | list[int]]:
        return _as_list(self.input)


class DetokenizeRequest(RequestBody):
    """POST /detokenize: the text of tokens."""

    tokens: Annotated[list[TokenId], Field(max_length=MAX_TOKENS, fail_fast=True)]
    model: str | None = None


class TraceRequest(RequestBody):
    """POST /trace: the longest spans of a text that stand word for word in the training text, of a server with `--trace`."""

    text: Annotated[str, StringConstraints(min_length=1, max_length=MAX_TRACED_CHARACTERS)]


def _as_list(value: Any) -> Sequence[str | list[int]]:
    """One text or one list of token ids as a list of one; lists of them unchanged."""
    return [value] if isinstance(value, str) or isinstance(value[0], int) else value
