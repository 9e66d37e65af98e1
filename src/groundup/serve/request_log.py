"""One record for each request: its id, and a line of the log.

Prompts and answers are not in it, unless asked for: they are the users' texts.
"""

import ipaddress
import json
import re
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TextIO

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,100}")
"""Ids of clients that are taken over."""


@dataclass
class RequestRecord:
    """What is known of one request; endpoints and middleware fill it in.

    Attributes:
        client: the name of its key, or its address.
        body: the body as received; kept for the log of prompts only.
        answers: the texts of the choices, likewise.
    """

    id: str
    client: str
    model: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reasons: list[str | None] = field(default_factory=list)
    body: bytes = b""
    answers: list[str] = field(default_factory=list)


def record_of(scope: Scope) -> RequestRecord:
    return scope["state"]["record"]


class RequestLog:
    """Writes a line for each request, as JSON or as text.

    Args:
        style: json or text.
        prompts: also the bodies and the answers.
        sink: where lines go; default: standard error.
    """

    def __init__(self, style: str = "json", *, prompts: bool = False, sink: TextIO | None = None):
        self.prompts = prompts
        self._style, self._sink = style, sink

    def write(self, record: RequestRecord, scope: Scope, status: int, seconds: float) -> None:
        entry: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "id": record.id,
            "client": record.client,
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "seconds": round(seconds, 4),
        }
        if record.model is not None:
            entry |= {
                "model": record.model,
                "prompt_tokens": record.prompt_tokens,
                "completion_tokens": record.completion_tokens,
                "finish_reasons": record.finish_reasons,
            }
        if self.prompts:
            entry |= {"body": record.body.decode(errors="replace"), "answers": record.answers}
        # ASCII: nothing that a client sends breaks the line, or is a command to a terminal
        if self._style == "json":
            line = json.dumps(entry)
        else:
            line = " ".join(f"{name}={json.dumps(value)}" for name, value in entry.items())
        print(line, file=self._sink or sys.stderr, flush=True)


class RequestRecords:
    """Gives each request a record and an id, which is the client's own if it sends X-Request-Id, and logs it at its end."""

    def __init__(self, app: ASGIApp, log: RequestLog | None, clock: Callable[[], float] = time.perf_counter):
        self._app, self._log, self._clock = app, log, clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        sent = Headers(scope=scope).get("x-request-id", "")
        id = sent if REQUEST_ID.fullmatch(sent) else f"req-{secrets.token_hex(12)}"
        record = RequestRecord(id, _address_of(scope))
        scope.setdefault("state", {})["record"] = record
        start, status = self._clock(), 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = record.id
            await send(message)

        try:
            return await self._app(scope, receive, send_with_id)
        finally:
            if self._log is not None:
                self._log.write(record, scope, status, self._clock() - start)


def _address_of(scope: Scope) -> str:
    """The address of the client; of IPv6 its network, whose addresses one client has all."""
    host = (scope.get("client") or ("unknown",))[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # a proxy's word
        return host[:100]
    return host if address.version == 4 else str(ipaddress.ip_network((address, 64), strict=False))
