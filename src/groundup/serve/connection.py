"""HTTP connections with limits of time and number.

Without them, clients that send nothing, half a header, or never read their answer occupy the server for ever.
"""

import asyncio
import json

from uvicorn.protocols.http.h11_impl import H11Protocol

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
        same_client = sum(each.client is not None and each.client[0] == self._address for each in self.connections)  # type: ignore[union-attr]
        if len(self.connections) > MAX_CONNECTIONS or same_client > MAX_CONNECTIONS_PER_CLIENT:
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

    @property
    def _address(self) -> str | None:
        return None if self.client is None else self.client[0]

    def _abort(self) -> None:
        self.transport.abort()


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
