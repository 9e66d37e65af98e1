"""What every request passes before it is answered: who may come in, what is counted, which headers go out."""

import hmac
import time
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from groundup.serve.api_error import ApiError
from groundup.serve.prometheus import ServerMetrics

HEADERS = {
    # The page loads nothing from elsewhere, and nobody may frame it.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class SecurityHeaders:
    """Adds the security headers to every response."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def send_protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        return await self._app(scope, receive, send_protected)


class RequestMetrics:
    """Counts requests and times them, by address.

    Args:
        addresses: those that are counted under their own name; strangers make no new ones.
    """

    def __init__(self, app: ASGIApp, metrics: ServerMetrics, paths: Collection[str]):
        self._app, self._metrics, self._addresses = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began = time.perf_counter()
        status = 500

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            return await self._app(scope, receive, send_counted)
        finally:
            address = scope["path"] if scope["path"] in self._addresses else "other"
            self._metrics.requests[address, status] += 1
            if scope["method"] == "POST":
                self._metrics.request_seconds.observe(time.perf_counter() - began)


class TrustedHost:
    """Answers only to its own names.

    A page on the web can make its own name point at 127.0.0.1 and so read what listens there (DNS rebinding);
    the browser then still says that name.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]):
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            host = Headers(scope=scope).get("host", "")
            name = host if host.endswith("]") else host.rpartition(":")[0] or host
            if name.lower() not in self._hosts:
                error = ApiError(
                    421,
                    f"Host: {host!r}, expected one of {', '.join(sorted(self._hosts))}",
                    code="wrong_host",
                )
                return await error.response()(scope, receive, send)
        return await self._app(scope, receive, send)


class ApiKeyAuth:
    """Lets in who sends `Authorization: Bearer KEY`.

    Args:
        open_to_all: addresses that need no key.
    """

    def __init__(self, app: ASGIApp, key: str, public_paths: Collection[str]):
        self._app, self._key, self._open = app, key.encode(errors="surrogateescape"), public_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in self._open:
            kind, _, sent = Headers(scope=scope).get("authorization", "").partition(" ")
            # Headers were decoded as latin-1; encoded so again they are the bytes that came.
            right = hmac.compare_digest(sent.strip(" ").encode("latin-1"), self._key)
            if kind.lower() != "bearer" or not right:
                message = "a wrong API key" if sent else "no API key: send it as Authorization: Bearer KEY"
                headers = {"WWW-Authenticate": "Bearer"}
                error = ApiError(401, message, code="invalid_api_key", headers=headers)
                return await error.response()(scope, receive, send)
        return await self._app(scope, receive, send)
