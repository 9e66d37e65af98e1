"""HTTP endpoints: completions, chats, responses, embeddings, tokens, models, health and metrics."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from groundup.artifacts.errors import UserError
from groundup.evaluate.trace import RunTracer
from groundup.generate.prompt_logprobs import TokenScore
from groundup.serve import prometheus
from groundup.serve.answer_grammar import chat_grammar, structured_grammar
from groundup.serve.api_error import ApiError
from groundup.serve.beam_answers import search_answers
from groundup.serve.chat_protocol import ChatRequest, TokenizeRequest
from groundup.serve.completion_choices import CompletionChoices
from groundup.serve.event_stream import EventStreamResponse, cancel_on_disconnect
from groundup.serve.prometheus import ServerMetrics
from groundup.serve.prompt_scores import echoes_of, prompt_scores, scored_prompts
from groundup.serve.protocol import CompletionRequest, DetokenizeRequest, EmbeddingRequest, TraceRequest
from groundup.serve.request_body import read_json_body
from groundup.serve.request_log import record_of
from groundup.serve.request_validation import RequestType, parse_request
from groundup.serve.response_format import (
    ChatFormatter,
    CompletionFormatter,
    ResponseFormatter,
    format_embeddings,
    json_bytes,
)
from groundup.serve.responses_format import ResponsesFormatter
from groundup.serve.responses_protocol import ResponsesRequest
from groundup.serve.served_model import ServedModel
from groundup.serve.tool_calls import ToolCallParser, argument_schemas

DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's default for completions. Chat completions are by default limited by the context only."""

MAX_TRACED_SPANS = 50


@dataclass(frozen=True)
class Endpoints:
    """The endpoints of one server.

    Attributes:
        models: the served model first, then the same with adapters; a request names one.
        max_body: maximum request size in bytes.
        log_prompts: keep bodies and answers for the log.
        tracer: of the training text; None: the server does not trace.
    """

    models: Sequence[ServedModel]
    metrics: ServerMetrics
    max_body: int
    log_prompts: bool = False
    tracer: RunTracer | None = None
    _tracing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One text at a time is traced, so that traces leave the processor to answers."""

    # ---- GET

    async def health(self, http: HttpRequest) -> Response:
        return JSONResponse({"status": "ok"})

    async def prometheus_metrics(self, http: HttpRequest) -> Response:
        return Response(self.metrics.render(), headers={"Content-Type": prometheus.CONTENT_TYPE})

    async def list_models(self, http: HttpRequest) -> Response:
        return JSONResponse({"object": "list", "data": [card for model in self.models for card in model.cards()]})

    async def retrieve_model(self, http: HttpRequest) -> Response:
        name = http.path_params["name"]
        return JSONResponse(next(card for card in self._named(name).cards() if card["id"] == name))

    # ---- texts

    async def completions(self, http: HttpRequest) -> Response:
        body = await self._body(CompletionRequest, http)
        model = self._named(body.model)
        model.refuse_encoder()
        prompts = await model.text_ids(body.prompts)
        default = DEFAULT_COMPLETION_TOKENS if model.is_decoder else model.max_tokens
        max_tokens = default if body.max_tokens is None else max(body.max_tokens, 1)
        form = body.structured_outputs
        grammar = await model.grammar(None if form is None else structured_grammar(form), "structured_outputs")
        client = record_of(http.scope).client
        formatter = CompletionFormatter(model.name, include_usage=body.include_usage)
        if body.use_beam_search:
            return await self._beam_search(http, model, body, prompts, max_tokens, formatter)
        scores: Sequence[Sequence[TokenScore]] | None = ()
        if body.echo or body.prompt_logprobs is not None:
            scoring = prompt_scores(model, body, prompts, client, echoed=body.logprobs if body.echo else None)
            if (scores := await cancel_on_disconnect(http.receive, scoring)) is None:
                return Response(status_code=499)
        choices = model.submit(
            body,
            prompts,
            max_tokens=max_tokens,
            logprobs=body.logprobs,
            grammar=grammar,
            echoes=await echoes_of(model, body, prompts, scores) if body.echo else (),
            scored_prompts=scored_prompts(model, body, prompts, scores),
            client=client,
            decoder_prefix=model.decoder_prefix(body.target_language),
        )
        return await self._respond(http, model, choices, formatter, stream=body.stream)

    async def _beam_search(
        self,
        http: HttpRequest,
        model: ServedModel,
        body: CompletionRequest,
        prompts: Sequence[Sequence[int]],
        max_tokens: int,
        formatter: CompletionFormatter,
    ) -> Response:
        record = record_of(http.scope)
        record.model, record.prompt_tokens = model.name, sum(map(len, prompts))
        self.metrics.prompt_tokens += record.prompt_tokens
        search = search_answers(model, body, prompts, max_tokens, record.client)
        if (choices := await cancel_on_disconnect(http.receive, search)) is None:
            return Response(status_code=499)
        record.completion_tokens = generated = sum(choice.num_tokens for choice in choices)
        record.finish_reasons = [choice.finish_reason for choice in choices]
        self.metrics.generated_tokens += generated
        if self.log_prompts:
            record.answers = [choice.text for choice in choices]
        usage = {"prompt_tokens": record.prompt_tokens, "completion_tokens": generated}
        return _json(json_bytes(formatter.full_response(choices, usage | {"total_tokens": sum(usage.values())})))

    async def chat_completions(self, http: HttpRequest) -> Response:
        body = await self._body(ChatRequest, http)
        format = partial(ChatFormatter, include_usage=body.include_usage)
        return await self._chat(http, self._named(body.model), body, format)

    async def responses(self, http: HttpRequest) -> Response:
        body = await self._body(ResponsesRequest, http)
        format = partial(ResponsesFormatter, request=body)
        return await self._chat(http, self._named(body.model), body.to_chat(), format)

    async def _chat(
        self, http: HttpRequest, model: ServedModel, body: ChatRequest, format: Callable[..., ResponseFormatter]
    ) -> Response:
        model.chat_template()
        tools = body.callable_tools
        syntax = model.tool_syntax() if tools else None
        schemas = argument_schemas([tool.to_template() for tool in tools])
        prompt = await model.conversation_ids(body, tools)
        if body.forces_call and syntax is not None:
            prompt = prompt + model.call_begin_ids(syntax)
        scores: Sequence[Sequence[TokenScore]] | None = ()
        if body.prompt_logprobs is not None:
            scoring = prompt_scores(model, body, [prompt], record_of(http.scope).client)
            if (scores := await cancel_on_disconnect(http.receive, scoring)) is None:
                return Response(status_code=499)
        one_call = syntax is not None and body.parallel_tool_calls is False
        choices = model.submit(
            body,
            [prompt],
            max_tokens=body.max_completion_tokens or body.max_tokens or model.max_tokens,
            logprobs=(body.top_logprobs or 0) if body.logprobs else None,
            stop=(syntax.end,) if syntax is not None and one_call and syntax.end else (),
            visible=syntax.tokens if syntax else (),
            grammar=await model.grammar(chat_grammar(body, syntax, schemas), body.form_field),
            scored_prompts=scored_prompts(model, body, [prompt], scores),
            client=record_of(http.scope).client,
        )
        new_parser = partial(ToolCallParser, syntax, schemas, in_call=body.forces_call) if syntax else None
        formatter = format(model.name, new_parser=new_parser, max_calls=1 if one_call else None)
        return await self._respond(http, model, choices, formatter, stream=body.stream)

    # ---- vectors and tokens

    async def embeddings(self, http: HttpRequest) -> Response:
        body = await self._body(EmbeddingRequest, http)
        model = self._named(body.model)
        width = model.model.config.hidden_size
        if (body.dimensions or 0) > width:
            raise ApiError(400, f"dimensions = {body.dimensions}, expected at most {width}", param="dimensions")
        ids = await model.text_ids(body.inputs, "input")
        for row in ids:
            model.check_length(row, model.model.config.context_length)
        record = record_of(http.scope)
        record.model, record.prompt_tokens = model.name, sum(map(len, ids))
        self.metrics.prompt_tokens += record.prompt_tokens
        vectors = await cancel_on_disconnect(http.receive, model.embed(ids, record.client))
        if vectors is None:
            return Response(status_code=499)
        format = partial(format_embeddings, model.name, vectors, ids, body.dimensions, body.encoding_format)
        return _json(await asyncio.to_thread(lambda: json_bytes(format())))

    async def tokenize(self, http: HttpRequest) -> Response:
        body = await self._body(TokenizeRequest, http)
        model = self._named(body.model)
        if body.messages is not None:
            generation = body.add_generation_prompt is not False
            ids = await model.rendered_ids(body.messages, body.tools, add_generation_prompt=generation)
        elif body.add_special_tokens is False:
            ids = await asyncio.to_thread(model.tokenizer.encode, body.prompt or "")
        else:
            (ids,) = await model.text_ids([body.prompt or ""])
        names = [model.tokenizer.token(id) for id in ids] if body.return_token_strs else None
        length = model.model.config.context_length
        return JSONResponse({"count": len(ids), "max_model_len": length, "tokens": ids, "token_strs": names})

    async def detokenize(self, http: HttpRequest) -> Response:
        body = await self._body(DetokenizeRequest, http)
        model = self._named(body.model)
        try:
            text = await asyncio.to_thread(model.tokenizer.decode, body.tokens)
        except UserError as error:
            raise ApiError(400, error.message, param="tokens") from None
        return JSONResponse({"prompt": text})

    async def trace(self, http: HttpRequest) -> Response:
        body = await self._body(TraceRequest, http)
        if self.tracer is None:
            raise ApiError(404, "this server does not trace texts to training text: see groundup serve --trace")
        async with self._tracing:
            found = await asyncio.to_thread(self.tracer.trace, body.text, max_spans=MAX_TRACED_SPANS)
        return JSONResponse(found.as_json())

    # ----

    async def _respond(
        self,
        http: HttpRequest,
        model: ServedModel,
        choices: CompletionChoices,
        formatter: ResponseFormatter,
        *,
        stream: bool | None,
    ) -> Response:
        record = record_of(http.scope)
        record.model = model.name

        def close() -> None:
            choices.stream.close()
            usage = choices.usage()
            record.prompt_tokens, record.completion_tokens = usage["prompt_tokens"], usage["completion_tokens"]
            record.finish_reasons = [choice.finish_reason for choice in choices.choices]
            if self.log_prompts:
                record.answers = [choice.text for choice in choices.choices]

        if stream:
            chunks = _response_chunks(choices, formatter)
            return EventStreamResponse(chunks, close, named_events=formatter.named_events)
        try:
            response = await cancel_on_disconnect(http.receive, _full_response(choices, formatter))
        finally:
            close()
        return Response(status_code=499) if response is None else _json(response)

    async def _body(self, kind: type[RequestType], http: HttpRequest) -> RequestType:
        content = await read_json_body(http, self.max_body)
        if self.log_prompts:
            record_of(http.scope).body = content
        return parse_request(kind, content)

    def _named(self, name: str | None) -> ServedModel:
        """The model that a request names; None: the model without an adapter."""
        served = {each: model for model in self.models for each in (model.name, *model.aliases)}
        if name is not None and name not in served:
            expected = " or ".join(map(repr, served))
            raise ApiError(404, f"unknown model {name!r}, expected {expected}", param="model", code="model_not_found")
        return self.models[0] if name is None else served[name]


def _json(content: bytes) -> Response:
    return Response(content, media_type="application/json")


async def _full_response(choices: CompletionChoices, formatter: ResponseFormatter) -> bytes:
    async for _ in choices.deltas():
        pass
    best, usage = choices.best(), choices.usage()
    return await asyncio.to_thread(lambda: json_bytes(formatter.full_response(best, usage)))


async def _response_chunks(choices: CompletionChoices, formatter: ResponseFormatter) -> AsyncIterator[dict[str, Any]]:
    for chunk in formatter.first_chunks(len(choices.choices)):
        yield chunk
    try:
        async for delta in choices.deltas():
            for chunk in formatter.chunks(delta):
                yield chunk
    except ApiError as error:  # status 200 was already sent
        yield error.payload() | ({"type": "error"} if formatter.named_events else {})
        return
    for chunk in formatter.last_chunks(choices.choices, choices.usage()):
        yield chunk
