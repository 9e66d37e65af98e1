"""What each address answers."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from groundup.artifacts.errors import UserError
from groundup.generate import Request, encode_prompt
from groundup.model import Decoder
from groundup.serve import prometheus
from groundup.serve.api_error import ApiError
from groundup.serve.completion_choices import CompletionChoice, CompletionChoices
from groundup.serve.disconnect import EventStreamResponse, cancel_on_disconnect
from groundup.serve.engine_thread import EngineThread
from groundup.serve.prometheus import ServerMetrics
from groundup.serve.protocol import ChatRequest, CompletionRequest, SamplingRequest, parse_request
from groundup.serve.request_body import read_json_body
from groundup.serve.response_format import ChatFormatter, CompletionFormatter, ResponseFormatter
from groundup.tokenizer import Tokenizer

DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's, for texts. A chat may by default take all the room that the context has."""


@dataclass(frozen=True)
class Endpoints:
    """The addresses of one served model.

    Attributes:
        name: the model's, as clients say it.
        max_tokens: most tokens of any answer; who asks for more gets this many.
        max_body: bytes of the largest request body that is read.
    """

    model: Decoder
    tokenizer: Tokenizer
    name: str
    worker: EngineThread
    metrics: ServerMetrics
    max_tokens: int
    max_body: int
    created: int

    # ---- GET

    async def health(self, http: HttpRequest) -> Response:
        return JSONResponse({"status": "ok"})

    async def prometheus_metrics(self, http: HttpRequest) -> Response:
        return Response(self.metrics.render(), headers={"Content-Type": prometheus.CONTENT_TYPE})

    async def list_models(self, http: HttpRequest) -> Response:
        return JSONResponse({"object": "list", "data": [self._model_card()]})

    async def retrieve_model(self, http: HttpRequest) -> Response:
        self._check_name(http.path_params["name"])
        return JSONResponse(self._model_card())

    # ---- POST

    async def completions(self, http: HttpRequest) -> Response:
        asked = parse_request(CompletionRequest, await read_json_body(http, self.max_body))
        self._check_name(asked.model)
        prompts = await self._run_in_thread(lambda: [self._prompt_ids(prompt) for prompt in asked.prompts])
        wanted = asked.max_tokens or DEFAULT_COMPLETION_TOKENS
        return await self._respond(
            http, asked, prompts, wanted, asked.logprobs, CompletionFormatter(self.name)
        )

    async def chat_completions(self, http: HttpRequest) -> Response:
        asked = parse_request(ChatRequest, await read_json_body(http, self.max_body))
        self._check_name(asked.model)
        if self.tokenizer.chat_template is None:
            raise ApiError(
                400,
                f"{self.name} has no chat template: it continues texts, and holds no conversations; "
                "use /v1/completions",
                code="no_chat_template",
            )
        messages = [message.to_chat_message() for message in asked.messages]
        prompt = await self._run_in_thread(
            lambda: self.tokenizer.render_chat(messages, add_generation_prompt=True), param="messages"
        )
        wanted = asked.max_completion_tokens or asked.max_tokens or self.max_tokens
        logprobs = (asked.top_logprobs or 0) if asked.logprobs else None
        return await self._respond(http, asked, [prompt], wanted, logprobs, ChatFormatter(self.name))

    # ----

    async def _respond(
        self,
        http: HttpRequest,
        asked: SamplingRequest,
        prompts: Sequence[Sequence[int]],
        max_tokens: int,
        logprobs: int | None,
        formatter: ResponseFormatter,
    ) -> Response:
        for prompt in prompts:
            self._check_length(prompt)
        requests = [
            Request(
                prompt,
                min(max_tokens, self.max_tokens),
                asked.sampling_params(),
                self.tokenizer.stop_ids,
                logprobs,
            )
            for prompt in prompts
        ]
        answers = CompletionChoices(
            self.worker.submit(requests),
            [
                CompletionChoice(i, request, self.tokenizer, asked.stop_strings)
                for i, request in enumerate(requests)
            ],
            self.metrics,
        )
        self.metrics.prompt_tokens += sum(map(len, prompts))
        if asked.stream:
            return EventStreamResponse(
                _response_chunks(answers, formatter, asked.include_usage), answers.stream.close
            )
        try:
            body = await cancel_on_disconnect(http.receive, _full_response(answers, formatter))
        finally:
            answers.stream.close()
        return Response(status_code=499) if body is None else JSONResponse(body)

    async def _run_in_thread(self, work: Callable[[], Any], param: str = "prompt") -> Any:
        """Tokenizing a long text takes a while: it happens in a thread, and what it refuses is the caller's fault."""
        try:
            return await asyncio.to_thread(work)
        except UserError as error:
            raise ApiError(400, error.message, param=param) from None

    def _prompt_ids(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            return encode_prompt(self.tokenizer, prompt)
        vocab_size = self.model.config.vocab_size
        if max(prompt) >= vocab_size:
            raise UserError(f"token id {max(prompt)}, expected 0 to {vocab_size - 1}")
        return prompt

    def _check_length(self, prompt: Sequence[int]) -> None:
        context_length = self.model.config.context_length
        if len(prompt) >= context_length:
            raise ApiError(
                400,
                f"the prompt has {len(prompt)} tokens, expected at most {context_length - 1}: "
                f"this model's context holds {context_length}",
                code="context_length_exceeded",
            )

    def _check_name(self, name: str | None) -> None:
        if name is not None and name != self.name:
            raise ApiError(
                404, f"no model {name!r} here, expected {self.name!r}", param="model", code="model_not_found"
            )

    def _model_card(self) -> dict[str, Any]:
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "groundup",
            "context_length": self.model.config.context_length,
            "chat": self.tokenizer.chat_template is not None,
        }


async def _full_response(answers: CompletionChoices, formatter: ResponseFormatter) -> dict[str, Any]:
    async for _ in answers.deltas():
        pass
    return formatter.full_response(answers.choices, answers.usage())


async def _response_chunks(
    answers: CompletionChoices, formatter: ResponseFormatter, include_usage: bool
) -> AsyncIterator[dict[str, Any]]:
    for chunk in formatter.first_chunks(len(answers.choices)):
        yield chunk
    try:
        async for delta in answers.deltas():
            if delta.text or delta.logprobs or delta.finish_reason:
                yield formatter.chunk(delta)
    except ApiError as error:  # the status is out already
        yield error.payload()
        return
    if include_usage:
        yield formatter.usage_chunk(answers.usage())
