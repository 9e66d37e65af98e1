"""HTTP connections with limits of time and number.

Without them, clients that send nothing, half a header, or never read their answer occupy the server for ever.
"""

import asyncio
import json
import ssl
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.utils import get_remote_addr

from groundup.serve.api_error import ApiError

HEADER_SECONDS = 10.0
"""For the headers of a request to arrive, from the connection or from their first byte."""

WRITE_SECONDS = 30.0
"""For a client to read what the system's buffers do not hold."""

MAX_CONNECTIONS = 1024
MAX_CONNECTIONS_PER_CLIENT = MAX_CONNECTIONS // 4
"""Of one address."""


class BoundedConnection(H11Protocol):
    """One connection. Over a limit of time it is closed; over a limit of number, answered with status 503."""

    _header_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # pause_writing, as soon as the client does not keep up; at 0, asyncio's TLS pauses with an empty buffer, for ever
        transport.set_write_buffer_limits(high=1)
        if _are_too_many(self.connections, self.client):
            transport.write(_refusal())
            transport.close()
            return
        self._header_timer = self.loop.call_later(HEADER_SECONDS, self._abort)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._header_timer = _cancelled(self._header_timer)
        elif self._header_timer is None:  # a part of the next request's headers
            self._header_timer = self.loop.call_later(HEADER_SECONDS, self._abort)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = _cancelled(self._write_timer) or self.loop.call_later(WRITE_SECONDS, self._abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._write_timer = _cancelled(self._write_timer)

    def connection_lost(self, exc: Exception | None) -> None:
        self._header_timer, self._write_timer = _cancelled(self._header_timer), _cancelled(self._write_timer)
        super().connection_lost(exc)

    def _abort(self) -> None:
        self.transport.abort()


class TlsConnection(asyncio.Protocol):
    """A connection during the TLS handshake, then a `BoundedConnection`; it counts as one, and has the time of a header.

    Args:
        context: certificate and key.
        arguments: those that uvicorn gives a connection.
    """

    def __init__(self, context: ssl.SSLContext, **arguments: Any):
        self._context, self._arguments = context, arguments
        self._connections = arguments["server_state"].connections
        self._received: list[bytes] = []
        self.client: tuple[str, int] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport, self.client = transport, get_remote_addr(transport)
        self._connections.add(self)
        if _are_too_many(self._connections, self.client):
            transport.abort()
        else:
            self._handshake = asyncio.get_running_loop().create_task(self._shake_hands())

    def data_received(self, data: bytes) -> None:
        self._received.append(data)  # what came with the end of the handshake

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)

    def shutdown(self) -> None:
        """Called by uvicorn when the server stops."""
        self.transport.abort()

    async def _shake_hands(self) -> None:
        try:
            transport = await asyncio.get_running_loop().start_tls(
                self.transport, self, self._context, server_side=True, ssl_handshake_timeout=HEADER_SECONDS
            )
        except OSError:  # no TLS, too slow, or gone
            return
        finally:
            self._connections.discard(self)
        if transport is not None and not transport.is_closing():
            connection = BoundedConnection(**self._arguments)
            transport.set_protocol(connection)
            connection.connection_made(transport)
            for data in self._received:
                connection.data_received(data)


def _are_too_many(connections: Any, client: tuple[str, int] | None) -> bool:
    """Whether all connections, or those of the address of `client`, are over their limit."""
    address = None if client is None else client[0]
    same_client = sum(each.client is not None and each.client[0] == address for each in connections)
    return len(connections) > MAX_CONNECTIONS or same_client > MAX_CONNECTIONS_PER_CLIENT


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def _refusal() -> bytes:
    """A response without a request: the client is not asked what it wants."""
    body = json.dumps(ApiError(503, "too many connections: try again later", code="overloaded").payload()).encode()
    head = (
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
        f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
