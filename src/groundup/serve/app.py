"""OpenAI-compatible server of one model as an ASGI application."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from groundup.artifacts.errors import UserError
from groundup.evaluate.trace import RunTracer
from groundup.generate import BatchingEngine
from groundup.generate.generation import GenerativeModel
from groundup.generate.speculative_decoding import Proposer
from groundup.interop.adapters import AdapterModels
from groundup.model import Encoder
from groundup.serve.api_error import ApiError
from groundup.serve.api_keys import ApiKeys
from groundup.serve.endpoints import Endpoints
from groundup.serve.engine_thread import EngineThread
from groundup.serve.middleware import ApiKeyAuth, RateLimiter, RequestMetrics, SecurityHeaders, TrustedHost
from groundup.serve.openapi import description_page, openapi_description
from groundup.serve.page_files import PAGE_FILES, respond_with
from groundup.serve.prometheus import ServerMetrics
from groundup.serve.rate_limits import RateLimits
from groundup.serve.request_log import RequestLog, RequestRecords
from groundup.serve.served_model import ServedModel
from groundup.tokenizer import Tokenizer

MAX_BATCH = 32
"""Requests that generate at the same time."""


def create_app(
    model: GenerativeModel | Encoder,
    tokenizer: Tokenizer,
    *,
    name: str,
    aliases: Collection[str] = (),
    api_key: str | ApiKeys | None = None,
    limits: RateLimits | None = None,
    cors_origins: Collection[str] = (),
    log: RequestLog | None = None,
    hosts: Collection[str] | None = None,
    max_batch: int = MAX_BATCH,
    max_waiting: int = 128,
    max_tokens: int | None = None,
    max_body: int = 1_000_000,
    adapters: Mapping[str, tuple[GenerativeModel | Encoder, Tokenizer]] | None = None,
    cache_memory: int | None = None,
    proposer: Proposer | None = None,
    starters: Mapping[str, Sequence[str]] | None = None,
    tracer: RunTracer | None = None,
) -> Starlette:
    """An OpenAI-compatible server of one model, with a chat page, for any ASGI server.

        model, tokenizer = groundup.open_model("runs/quickstart")
        uvicorn.run(create_app(model, tokenizer, name="quickstart"))

    Args:
        name: model name in requests and responses.
        aliases: other names of the model in requests.
        api_key: if set, all paths but /health, /docs, /openapi.json and the page require `Authorization: Bearer KEY`.
        limits: requests and tokens a minute for each client: a key, or an address without one.
        cors_origins: web sites, such as https://app.example, whose pages may use the server; "*": any, with a key.
        log: where requests are logged; None: nowhere.
        hosts: names accepted as Host headers beside addresses; None: any.
        max_batch: requests that generate at the same time.
        max_waiting: maximum number of queued requests; further ones get status 503.
        max_tokens: maximum number of generated tokens per answer; None: limited by the context only.
        max_body: maximum request size in bytes.
        adapters: by name, the model with an adapter (`with_adapter`) and its tokenizer; a request names one as its model.
        cache_memory: bytes for keys and values; None: what requests need, up to half of the free memory.
        proposer: guesses tokens (speculative decoding): the same answers in fewer passes while few requests run.
        starters: by name of a model, messages that the page offers (`conversation_starters`).
        tracer: traces texts to training text, whose passages clients can then read (`groundup.evaluate.trace.open_tracer`).

    Raises UserError for an empty key.
    """
    keys = ApiKeys([api_key]) if isinstance(api_key, str) else api_key
    check_origins(cors_origins, has_key=keys is not None)
    served = {name: (model, tokenizer), **(adapters or {})}
    variants = AdapterModels(model.eval(), {each: network.eval() for each, (network, _) in (adapters or {}).items()})
    engine = BatchingEngine(
        model,
        max_batch=max_batch,
        cache_memory=cache_memory,
        variants=variants if adapters else None,
        proposer=proposer,
    )
    thread = EngineThread(engine, max_waiting=max_waiting)
    metrics = ServerMetrics(lambda: thread.running, lambda: thread.waiting, lambda: thread.pages, proposer)
    models = [
        ServedModel(
            model=network,
            tokenizer=words,
            name=each,
            engine_thread=thread,
            metrics=metrics,
            max_tokens=max_tokens or network.config.cached_context_length,
            created=int(time.time()),
            aliases=tuple(aliases) if each == name else (),
            starters=(starters or {}).get(each, ()),
            adapter=None if each == name else each,
            traces=tracer is not None,
        )
        for each, (network, words) in served.items()
    ]
    endpoints = Endpoints(models, metrics, max_body, log_prompts=log is not None and log.prompts, tracer=tracer)
    description = openapi_description(has_key=keys is not None)
    routes = [
        *(Route(path, respond_with(file)) for path, file in PAGE_FILES.items()),
        Route("/openapi.json", _constant(json.dumps(description).encode(), "application/json")),
        Route("/docs", _constant(description_page(description).encode(), "text/html; charset=utf-8")),
        Route("/health", endpoints.health),
        Route("/metrics", endpoints.prometheus_metrics),
        Route("/v1/models", endpoints.list_models),
        Route("/v1/models/{name:path}", endpoints.retrieve_model),
        Route("/v1/completions", endpoints.completions, methods=["POST"]),
        Route("/v1/chat/completions", endpoints.chat_completions, methods=["POST"]),
        Route("/v1/responses", endpoints.responses, methods=["POST"]),
        Route("/v1/embeddings", endpoints.embeddings, methods=["POST"]),
        Route("/tokenize", endpoints.tokenize, methods=["POST"]),
        Route("/detokenize", endpoints.detokenize, methods=["POST"]),
        Route("/trace", endpoints.trace, methods=["POST"]),
    ]
    public_paths = {"/health", "/openapi.json", "/docs", *PAGE_FILES}
    middleware = [
        Middleware(SecurityHeaders),
        Middleware(RequestRecords, log=log),
        Middleware(RequestMetrics, metrics=metrics, paths={route.path for route in routes}),
    ]
    if hosts is not None:
        middleware.append(Middleware(TrustedHost, hosts=hosts))
    if cors_origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(cors_origins),
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                expose_headers=["X-Request-Id", "Retry-After"],
            )
        )
    if keys is not None:
        middleware.append(Middleware(ApiKeyAuth, keys=keys, public_paths=public_paths))
    if limits is not None:
        middleware.append(Middleware(RateLimiter, limits=limits))

    async def stop_generation(seconds: float = 0.0) -> None:
        """Refuse new requests, and end the others after so many seconds."""
        thread.refuse()
        end = time.monotonic() + seconds
        while thread.in_flight and time.monotonic() < end:
            await asyncio.sleep(0.02)
        await asyncio.to_thread(thread.stop)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await stop_generation()

    handlers = {ApiError: _api_error, HTTPException: _http_error, Exception: _internal_error}
    app = Starlette(routes=routes, middleware=middleware, lifespan=lifespan, exception_handlers=handlers)  # type: ignore[arg-type]
    app.state.stop_generation = stop_generation
    return app


ORIGIN = re.compile(r"https?://[^/@\s]+")


def check_origins(origins: Collection[str], *, has_key: bool) -> None:
    """Raises UserError for an origin that no browser sends, and for "*" without a key."""
    for origin in origins:
        if origin == "*" and not has_key:
            raise UserError(
                "the origin * without an API key: any web page could use the model", hint="set a key, or name the sites"
            )
        if origin != "*" and not ORIGIN.fullmatch(origin):
            raise UserError(f"origin {origin!r}, expected scheme and host, such as https://app.example")


def _constant(content: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    async def respond(request: Request) -> Response:
        return Response(content, headers={"Content-Type": kind, "Cache-Control": "no-cache"})

    return respond


async def _api_error(request: Request, error: ApiError) -> Response:
    return error.response()


async def _http_error(request: Request, error: HTTPException) -> Response:
    """Errors of routing: unknown path or method."""
    message = f"{request.method} {request.url.path}: {HTTPStatus(error.status_code).phrase.lower()}"
    return ApiError(error.status_code, message, headers=dict(error.headers or {})).response()


async def _internal_error(request: Request, error: Exception) -> Response:
    return ApiError(500, "internal error: see the server's log", code="internal_error").response()
