"""The whole server as one ASGI application."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from groundup.artifacts.errors import UserError
from groundup.generate import BatchingEngine
from groundup.model import Decoder
from groundup.serve.api_error import ApiError
from groundup.serve.endpoints import Endpoints
from groundup.serve.engine_thread import EngineThread
from groundup.serve.middleware import ApiKeyAuth, RequestMetrics, SecurityHeaders, TrustedHost
from groundup.serve.prometheus import ServerMetrics
from groundup.tokenizer import Tokenizer

CHAT_PAGE_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/chat.css": ("chat.css", "text/css; charset=utf-8"),
    "/chat.js": ("chat.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""The chat page: its addresses, files and types. Nothing else on the disk has an address."""


def create_app(
    model: Decoder,
    tokenizer: Tokenizer,
    *,
    name: str,
    api_key: str | None = None,
    hosts: Collection[str] | None = None,
    max_batch: int = 8,
    max_waiting: int = 64,
    max_tokens: int | None = None,
    max_body: int = 1_000_000,
) -> Starlette:
    """The OpenAI-compatible server of one model, with a chat page.

    Args:
        name: what clients call the model.
        api_key: when given, everything but /health and the page needs `Authorization: Bearer KEY`.
        hosts: names in the Host header that are answered to; None: any.
        max_batch: requests that generate at the same time.
        max_waiting: requests that may wait beyond those; more get a 503.
        max_tokens: most tokens of any answer; None: what the context holds.
        max_body: bytes of the largest request.

    Raises UserError on an empty key.
    """
    if api_key is not None and not api_key.strip():
        raise UserError(
            "the API key is empty, expected some characters", hint="leave it out to let everybody in"
        )
    worker = EngineThread(BatchingEngine(model.eval(), max_batch=max_batch), max_waiting=max_waiting)
    metrics = ServerMetrics(lambda: worker.running, lambda: worker.waiting)
    answer = Endpoints(
        model=model,
        tokenizer=tokenizer,
        name=name,
        worker=worker,
        metrics=metrics,
        max_tokens=max_tokens or model.config.context_length,
        max_body=max_body,
        created=int(time.time()),
    )
    routes = [
        *(Route(address, _static_file(*file)) for address, file in CHAT_PAGE_FILES.items()),
        Route("/health", answer.health),
        Route("/metrics", answer.prometheus_metrics),
        Route("/v1/models", answer.list_models),
        Route("/v1/models/{name:path}", answer.retrieve_model),
        Route("/v1/completions", answer.completions, methods=["POST"]),
        Route("/v1/chat/completions", answer.chat_completions, methods=["POST"]),
    ]
    middleware = [
        Middleware(SecurityHeaders),
        Middleware(RequestMetrics, metrics=metrics, paths={route.path for route in routes}),
    ]
    if hosts is not None:
        middleware.append(Middleware(TrustedHost, hosts=hosts))
    if api_key is not None:
        middleware.append(Middleware(ApiKeyAuth, key=api_key, public_paths={"/health", *CHAT_PAGE_FILES}))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(worker.stop)

    handlers = {ApiError: _api_error, HTTPException: _http_error, Exception: _internal_error}
    return Starlette(routes=routes, middleware=middleware, lifespan=lifespan, exception_handlers=handlers)  # type: ignore[arg-type]


def _static_file(name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    content = (Path(__file__).parent / "chat_page" / name).read_bytes()

    async def answer(request: Request) -> Response:
        return Response(content, headers={"Content-Type": kind, "Cache-Control": "no-cache"})

    return answer


async def _api_error(request: Request, error: ApiError) -> Response:
    return error.response()


async def _http_error(request: Request, error: HTTPException) -> Response:
    """An address or a method that is none."""
    said = f"{request.method} {request.url.path}: {HTTPStatus(error.status_code).phrase.lower()}"
    return ApiError(error.status_code, said, headers=dict(error.headers or {})).response()


async def _internal_error(request: Request, error: Exception) -> Response:
    return ApiError(500, "a fault in the server; its log says more", code="internal_error").response()
