"""Server-sent event streams, and cancellation of work whose client disconnected."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")


async def cancel_on_disconnect(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`, or None when the client disconnected first; `work` is then cancelled."""
    task = asyncio.ensure_future(work)
    disconnect = asyncio.ensure_future(_wait_for_disconnect(receive))
    try:
        await asyncio.wait((task, disconnect), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for future in (task, disconnect):
            future.cancel()
        await asyncio.gather(task, disconnect, return_exceptions=True)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStreamResponse(Response):
    """Server-sent events (WHATWG HTML, section 9.2): one JSON object each, then [DONE].

    Args:
        objects: the JSON objects to send.
        close: called at the end in every case, even if sending never began.
        named_events: an event has the `type` of its object as its name, and [DONE] is left out.
    """

    media_type = "text/event-stream"

    def __init__(
        self, objects: AsyncIterator[dict[str, Any]], close: Callable[[], None], *, named_events: bool = False
    ):
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._objects, self._close, self._named_events = objects, close, named_events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await cancel_on_disconnect(receive, self._send(send))
        finally:
            self._close()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for item in self._objects:
            name = f"event: {item['type']}\n" if self._named_events else ""
            text = json.dumps(item, ensure_ascii=False, separators=(",", ":"))
            await send(_body_part(f"{name}data: {text}\n\n", more=True))
        await send(_body_part("" if self._named_events else "data: [DONE]\n\n", more=False))


def _body_part(text: str, *, more: bool) -> dict[str, Any]:
    return {"type": "http.response.body", "body": text.encode(), "more_body": more}
