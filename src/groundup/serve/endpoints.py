"""HTTP endpoints: completions, chat completions, embeddings, models, health and metrics."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.generate import Request, encode_prompt
from groundup.generate.generation import GenerativeModel, continued_ids, max_prompt_tokens
from groundup.generate.text_embedding import batches_by_length, embed_batch
from groundup.model import Encoder
from groundup.serve import prometheus
from groundup.serve.api_error import ApiError
from groundup.serve.completion_choices import CompletionChoice, CompletionChoices
from groundup.serve.engine_thread import EngineThread
from groundup.serve.event_stream import EventStreamResponse, cancel_on_disconnect
from groundup.serve.prometheus import ServerMetrics
from groundup.serve.protocol import (
    MAX_CHOICES,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    SamplingRequest,
    parse_request,
)
from groundup.serve.request_body import read_json_body
from groundup.serve.response_format import ChatFormatter, CompletionFormatter, ResponseFormatter, format_embeddings
from groundup.tokenizer import Tokenizer

DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's default for completions. Chat completions are by default limited by the context only."""


@dataclass(frozen=True)
class Endpoints:
    """The endpoints of one served model, and of the same model with adapters.

    Attributes:
        name: model name in requests and responses.
        adapters: the endpoints of the model with each adapter, which a request names as its model.
        max_tokens: upper limit of generated tokens; larger values in requests are reduced to it.
        max_body: maximum request size in bytes.
    """

    model: GenerativeModel | Encoder
    tokenizer: Tokenizer
    name: str
    engine_thread: EngineThread
    metrics: ServerMetrics
    max_tokens: int
    max_body: int
    created: int
    adapters: Sequence["Endpoints"] = ()

    # ---- GET

    async def health(self, http: HttpRequest) -> Response:
        return JSONResponse({"status": "ok"})

    async def prometheus_metrics(self, http: HttpRequest) -> Response:
        return Response(self.metrics.render(), headers={"Content-Type": prometheus.CONTENT_TYPE})

    async def list_models(self, http: HttpRequest) -> Response:
        return JSONResponse({"object": "list", "data": [each._model_card() for each in (self, *self.adapters)]})

    async def retrieve_model(self, http: HttpRequest) -> Response:
        return JSONResponse(self._named(http.path_params["name"])._model_card())

    # ---- POST

    async def completions(self, http: HttpRequest) -> Response:
        body = parse_request(CompletionRequest, await read_json_body(http, self.max_body))
        return await self._named(body.model)._complete(http, body)

    async def _complete(self, http: HttpRequest, body: CompletionRequest) -> Response:
        self._refuse_encoder()
        prompts = await self._run_in_thread(lambda: [self._prompt_ids(prompt) for prompt in body.prompts])
        max_tokens = body.max_tokens or (DEFAULT_COMPLETION_TOKENS if self._is_decoder else self.max_tokens)
        return await self._respond(http, body, prompts, max_tokens, body.logprobs, CompletionFormatter(self.name))

    async def chat_completions(self, http: HttpRequest) -> Response:
        body = parse_request(ChatRequest, await read_json_body(http, self.max_body))
        return await self._named(body.model)._chat(http, body)

    async def _chat(self, http: HttpRequest, body: ChatRequest) -> Response:
        self._refuse_encoder()
        if not self._is_decoder:
            raise ApiError(
                400,
                f"{self.name} is an encoder-decoder, which turns one text into another, expected a chat model; "
                "use /v1/completions",
                code="no_chat_template",
            )
        if self.tokenizer.chat_template is None:
            raise ApiError(
                400,
                f"{self.name} is a base model without a chat template, expected a chat model; use /v1/completions",
                code="no_chat_template",
            )
        messages = [message.to_chat_message() for message in body.messages]
        prompt = await self._run_in_thread(
            lambda: self.tokenizer.render_chat(messages, add_generation_prompt=True, now=datetime.now()),
            param="messages",
        )
        max_tokens = body.max_completion_tokens or body.max_tokens or self.max_tokens
        logprobs = (body.top_logprobs or 0) if body.logprobs else None
        return await self._respond(http, body, [prompt], max_tokens, logprobs, ChatFormatter(self.name))

    async def embeddings(self, http: HttpRequest) -> Response:
        body = parse_request(EmbeddingRequest, await read_json_body(http, self.max_body))
        return await self._named(body.model)._embeddings(http, body)

    async def _embeddings(self, http: HttpRequest, body: EmbeddingRequest) -> Response:
        width = self.model.config.hidden_size
        if (body.dimensions or 0) > width:
            raise ApiError(400, f"dimensions = {body.dimensions}, expected at most {width}", param="dimensions")
        ids = await self._run_in_thread(lambda: [self._prompt_ids(text) for text in body.inputs], param="input")
        for row in ids:
            self._check_length(row, self.model.config.context_length)
        self.metrics.prompt_tokens += sum(map(len, ids))
        vectors = await cancel_on_disconnect(http.receive, self._embed(ids))
        if vectors is None:
            return Response(status_code=499)
        return JSONResponse(format_embeddings(self.name, vectors, ids, body.dimensions, body.encoding_format))

    # ----

    async def _embed(self, ids: Sequence[Sequence[int]]) -> list[Tensor]:
        """The vector of each text; other requests run between two batches."""
        vectors: dict[int, Tensor] = {}
        for rows in batches_by_length(ids):
            batch = partial(embed_batch, self.model, [ids[row] for row in rows])
            vectors |= zip(rows, await self.engine_thread.call(batch), strict=True)
        return [vectors[row] for row in range(len(ids))]

    @property
    def _is_decoder(self) -> bool:
        return self.model.config.architecture == "decoder"

    def _refuse_encoder(self) -> None:
        if self.model.config.architecture == "encoder":
            raise ApiError(
                400,
                f"{self.name} is an encoder, which embeds texts and does not write them; use /v1/embeddings",
                code="encoder",
            )

    async def _respond(
        self,
        http: HttpRequest,
        body: SamplingRequest,
        prompts: Sequence[Sequence[int]],
        max_tokens: int,
        logprobs: int | None,
        formatter: ResponseFormatter,
    ) -> Response:
        for prompt in prompts:
            self._check_length(prompt, max_prompt_tokens(self.model.config))
        self._check_tokens(body.logit_bias or (), "logit_bias")
        if len(prompts) * body.num_choices > MAX_CHOICES:
            raise ApiError(
                400,
                f"{len(prompts)} prompts with n = {body.num_choices}, expected at most {MAX_CHOICES} choices",
                param="n",
            )
        sampling = body.sampling_params(1.0 if self._is_decoder else 0.0)
        stop_ids = body.stop_ids(self.tokenizer.stop_ids)
        requests = [
            Request(prompt, min(max_tokens, self.max_tokens), sampling.numbered(number), stop_ids, logprobs)
            for prompt in prompts
            for number in range(body.num_choices)
        ]
        choices = CompletionChoices(
            self.engine_thread.submit(requests),
            [
                CompletionChoice(
                    i, request, self.tokenizer, body.stop_strings, continued_ids(self.model, request.prompt_ids)
                )
                for i, request in enumerate(requests)
            ],
            self.metrics,
        )
        self.metrics.prompt_tokens += sum(map(len, prompts))
        if body.stream:
            return EventStreamResponse(_response_chunks(choices, formatter, body.include_usage), choices.stream.close)
        try:
            response = await cancel_on_disconnect(http.receive, _full_response(choices, formatter))
        finally:
            choices.stream.close()
        return Response(status_code=499) if response is None else JSONResponse(response)

    async def _run_in_thread(self, work: Callable[[], Any], param: str = "prompt") -> Any:
        """Tokenize outside the event loop; a UserError becomes status 400."""
        try:
            return await asyncio.to_thread(work)
        except UserError as error:
            raise ApiError(400, error.message, param=param) from None

    def _prompt_ids(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            return encode_prompt(self.model, self.tokenizer, prompt)
        vocab_size = self.model.config.vocab_size
        if max(prompt) >= vocab_size:
            raise UserError(f"token id {max(prompt)}, expected 0 to {vocab_size - 1}")
        return prompt

    def _check_tokens(self, ids: Iterable[str], field: str) -> None:
        vocab_size = self.model.config.vocab_size
        if unknown := [token for token in ids if int(token) >= vocab_size]:
            raise ApiError(400, f"token id {unknown[0]}, expected 0 to {vocab_size - 1}", param=field)

    def _check_length(self, prompt: Sequence[int], limit: int) -> None:
        if len(prompt) > limit:
            raise ApiError(
                400,
                f"the prompt has {len(prompt)} tokens, expected at most {limit} "
                f"(context length {self.model.config.context_length})",
                code="context_length_exceeded",
            )

    def _named(self, name: str | None) -> "Endpoints":
        """The endpoints of the model that a request names; None: the model without an adapter."""
        served = {each.name: each for each in (self, *self.adapters)}
        if name is not None and name not in served:
            expected = " or ".join(map(repr, served))
            raise ApiError(404, f"unknown model {name!r}, expected {expected}", param="model", code="model_not_found")
        return self if name is None else served[name]

    def _model_card(self) -> dict[str, Any]:
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "groundup",
            "context_length": self.model.config.context_length,
            "architecture": self.model.config.architecture,
            "chat": self._is_decoder and self.tokenizer.chat_template is not None,
        }


async def _full_response(choices: CompletionChoices, formatter: ResponseFormatter) -> dict[str, Any]:
    async for _ in choices.deltas():
        pass
    return formatter.full_response(choices.choices, choices.usage())


async def _response_chunks(
    choices: CompletionChoices, formatter: ResponseFormatter, include_usage: bool
) -> AsyncIterator[dict[str, Any]]:
    for chunk in formatter.first_chunks(len(choices.choices)):
        yield chunk
    try:
        async for delta in choices.deltas():
            if delta.text or delta.logprobs or delta.finish_reason:
                yield formatter.chunk(delta)
    except ApiError as error:  # status 200 was already sent
        yield error.payload()
        return
    if include_usage:
        yield formatter.usage_chunk(choices.usage())
