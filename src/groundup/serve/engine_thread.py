"""The one thread in which the model runs. The event loop hands it requests and gets their events back.

Everything that touches the engine happens in this thread: others put small functions into its inbox, and it
runs them between two steps. So there is no lock, and the event loop never waits for the model.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Sequence

from groundup.generate import BatchingEngine, Request, StepOutput
from groundup.serve.api_error import ApiError

log = logging.getLogger("groundup.serve")


class EngineThread:
    """Runs an engine in a thread of its own, started by the first request.

    Args:
        max_waiting: requests that may wait beyond those that run; more are turned away at once.
    """

    def __init__(self, engine: BatchingEngine, *, max_waiting: int):
        self._engine = engine
        self._limit = engine.max_batch + max_waiting
        self._in_flight = 0  # counted in the event loop: what the thread knows is a step old
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._streams: dict[Request, OutputStream] = {}
        self._thread: threading.Thread | None = None
        self._stopping = False

    @property
    def running(self) -> int:
        return self._engine.running

    @property
    def waiting(self) -> int:
        return max(self._in_flight - self._engine.running, 0)

    def submit(self, requests: Sequence[Request]) -> "OutputStream":
        """Queue requests whose events come in one stream; the caller must close it, whatever happens.

        Raises ApiError 503 when too many wait already, or when the server is stopping.
        """
        if self._stopping:
            raise ApiError(503, "the server is stopping", code="stopping")
        if self._in_flight + len(requests) > self._limit:
            raise ApiError(
                503, f"{self._in_flight} requests run or wait, at most {self._limit} may: try again later",
                code="overloaded", headers={"Retry-After": "1"},
            )  # fmt: skip
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="groundup-model", daemon=True)
            self._thread.start()
        self._in_flight += len(requests)
        stream = OutputStream(self, requests)
        self._inbox.put(lambda: self._admit(stream))
        return stream

    def stop(self) -> None:
        """Give up what runs and end the thread. A second call does nothing."""
        self._stopping = True
        if self._thread is not None:
            self._inbox.put(lambda: None)  # wakes it
            self._thread.join()
            self._thread = None

    # ---- in the event loop

    def cancel(self, request: Request) -> None:
        """Stop generating; no further event of the request comes. One that ended already is no error."""
        self._inbox.put(lambda: self._cancel_request(request))

    def release_slots(self, count: int) -> None:
        self._in_flight -= count

    # ---- in the model's thread

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._read_inbox()
                self._step()
            except Exception:  # whatever it was, the next requests may fare better
                log.exception("a step of the model failed; the requests that it served are given up")
                self._fail_all(
                    ApiError(500, "the model failed; the server's log says why", code="model_failed")
                )
        self._fail_all(ApiError(503, "the server is stopping", code="stopping"))

    def _step(self) -> None:
        if not self._engine.busy:
            return
        for event in self._engine.step():
            if stream := self._streams.get(event.request):
                stream.deliver(event)
            if event.finish_reason:
                self._streams.pop(event.request, None)

    def _read_inbox(self) -> None:
        if not self._engine.busy:
            self._inbox.get()()  # nothing to do: wait
        while True:
            try:
                self._inbox.get_nowait()()
            except queue.Empty:
                return

    def _admit(self, stream: "OutputStream") -> None:
        for request in stream.requests:
            self._streams[request] = stream
            self._engine.submit(request)

    def _cancel_request(self, request: Request) -> None:
        self._streams.pop(request, None)
        self._engine.cancel(request)

    def _fail_all(self, error: ApiError) -> None:
        for stream in set(self._streams.values()):
            stream.deliver(error)
        self._streams.clear()
        self._engine.clear()


class OutputStream:
    """The events of some requests, in the order in which they happen; for the event loop that made it."""

    def __init__(self, worker: EngineThread, requests: Sequence[Request]):
        self.requests = requests
        self._worker = worker
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[StepOutput | ApiError] = asyncio.Queue()
        self._open = set(requests)

    def deliver(self, event: StepOutput | ApiError) -> None:
        """Called in the model's thread."""
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:  # the event loop is closed: nobody listens any more
            for request in self.requests:
                self._worker.cancel(request)

    async def next(self) -> StepOutput:
        """The next event. Raises ApiError when the model failed or the server stops."""
        while True:
            event = await self._events.get()
            if isinstance(event, ApiError):
                raise event
            if event.request in self._open:  # else it was cancelled while this event was on its way
                if event.finish_reason:
                    self._close_request(event.request)
                return event

    def cancel(self, request: Request) -> None:
        """Stop one of the requests."""
        if request in self._open:
            self._worker.cancel(request)
            self._close_request(request)

    def close(self) -> None:
        """Stop what still runs. A second call does nothing."""
        for request in list(self._open):
            self.cancel(request)

    def _close_request(self, request: Request) -> None:
        self._open.remove(request)
        self._worker.release_slots(1)
