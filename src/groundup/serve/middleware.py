"""ASGI middleware: security headers, request metrics, trusted hosts, API keys, rate limits."""

import ipaddress
import time
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from groundup.artifacts.http_server import SECURITY_HEADERS
from groundup.serve.api_error import ApiError
from groundup.serve.api_keys import ApiKeys
from groundup.serve.prometheus import ServerMetrics
from groundup.serve.rate_limits import RateLimits
from groundup.serve.request_log import record_of


class SecurityHeaders:
    """Adds security headers to every response."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        return await self._app(scope, receive, send_with_headers)


class RequestMetrics:
    """Counts and times requests by path.

    Args:
        paths: paths with a label of their own; all others are counted as "other".
    """

    def __init__(self, app: ASGIApp, metrics: ServerMetrics, paths: Collection[str]):
        self._app, self._metrics, self._paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        start = time.perf_counter()
        status = 500

        async def send_with_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            return await self._app(scope, receive, send_with_status)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.requests[path, status] += 1
            if scope["method"] == "POST":
                self._metrics.request_seconds.observe(time.perf_counter() - start)


class TrustedHost:
    """Refuses requests whose Host header is neither in `hosts` nor an address, against DNS rebinding.

    In such an attack a web page points its own name at this server; the browser still sends that name as Host.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]):
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            host = Headers(scope=scope).get("host", "")
            name = host if host.endswith("]") else host.rpartition(":")[0] or host
            if name.lower() not in self._hosts and not _is_address(name):
                error = ApiError(
                    421,
                    f"Host: {host!r}, expected an address or one of {', '.join(sorted(self._hosts))}",
                    code="wrong_host",
                )
                return await error.response()(scope, receive, send)
        return await self._app(scope, receive, send)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


class ApiKeyAuth:
    """Requires `Authorization: Bearer KEY`, except for `public_paths`. The client then has the name of its key."""

    def __init__(self, app: ASGIApp, keys: ApiKeys, public_paths: Collection[str]):
        self._app, self._keys, self._open = app, keys, public_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in self._open:
            kind, _, sent = Headers(scope=scope).get("authorization", "").partition(" ")
            # latin-1 restores the header's raw bytes
            client = self._keys.client_of(sent.strip(" ").encode("latin-1"))
            if kind.lower() != "bearer" or client is None:
                message = "a wrong API key" if sent else "no API key: send it as Authorization: Bearer KEY"
                headers = {"WWW-Authenticate": "Bearer"}
                error = ApiError(401, message, code="invalid_api_key", headers=headers)
                return await error.response()(scope, receive, send)
            record_of(scope).client = client
        return await self._app(scope, receive, send)


class RateLimiter:
    """Refuses POST requests of clients that are over their limits with status 429."""

    def __init__(self, app: ASGIApp, limits: RateLimits):
        self._app, self._limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self._app(scope, receive, send)
        record = record_of(scope)
        try:
            headers = self._limits.admit(record.client)
        except ApiError as error:
            return await error.response()(scope, receive, send)

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(headers)
            await send(message)

        try:
            return await self._app(scope, receive, send_with_limits)
        finally:
            self._limits.charge(record.client, record.prompt_tokens + record.completion_tokens)
