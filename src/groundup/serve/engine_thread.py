"""The thread that runs the generation engine, fed from the asyncio event loop.

Only this thread touches the engine: the event loop queues functions, which run between two engine steps. So no lock is
needed, and the event loop never waits for the model.
"""

import asyncio
import logging
import queue
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar, cast

from groundup.artifacts.errors import UserError
from groundup.generate import BatchingEngine, Request, StepOutput
from groundup.serve.api_error import ApiError

log = logging.getLogger("groundup.serve")

Result = TypeVar("Result")


class EngineThread:
    """Runs an engine in a thread, which the first request starts.

    Args:
        max_waiting: maximum number of queued requests; further ones are refused.

    Clients take turns: a request does not wait for all those of another client. One client may have three quarters of the places.
    """

    def __init__(self, engine: BatchingEngine, *, max_waiting: int):
        self._engine = engine
        self._limit = engine.max_batch + max_waiting
        self._in_flight = 0  # counted in the event loop, up to date between engine steps
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._held: Counter[str] = Counter()  # places by client, likewise
        self._calls: deque[Callable[[], None]] = deque()
        self._streams: dict[Request, OutputStream] = {}
        self._thread: threading.Thread | None = None
        self._refusing = self._stopping = False
        self.search_lock = asyncio.Lock()  # beam searches run one after the other: each has a cache of its own

    @property
    def in_flight(self) -> int:
        """Requests that are running or queued."""
        return self._in_flight

    @property
    def running(self) -> int:
        return self._engine.running

    @property
    def pages(self) -> int:
        """Pages of keys and values that requests hold."""
        return self._engine.cache.pool.used if "cache" in vars(self._engine) else 0  # made at the first request

    @property
    def waiting(self) -> int:
        return max(self._in_flight - self._engine.running, 0)

    def submit(self, requests: Sequence[Request], client: str = "") -> "OutputStream":
        """Queue requests; their outputs arrive in one stream, which the caller must close.

        Raises ApiError 503 when the queue is full or the server is stopping, 429 when the client holds too much of it.
        """
        self._reserve(len(requests), client)
        stream = OutputStream(self, requests, client)
        for request in requests:
            request.group = client or stream
        self._inbox.put(lambda: self._admit(stream))
        return stream

    async def call(self, function: Callable[[], Result], client: str = "") -> Result:
        """The result of a function that uses the model, which runs between two engine steps, one function at a time.

        Raises ApiError as `submit` does, and 500 when the function fails.
        """
        self._reserve(1, client)
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[Result] = loop.create_future()

        def resolve(result: Result | None, error: ApiError | None) -> None:
            if not outcome.done():  # cancelled, when the client has disconnected
                outcome.set_exception(error) if error else outcome.set_result(cast(Result, result))

        def run() -> None:
            result, error = None, None
            try:
                if not outcome.cancelled():
                    result = function()
            except Exception:
                log.exception("the model failed")
                error = _model_failed()
            with suppress(RuntimeError):  # the event loop is closed
                loop.call_soon_threadsafe(resolve, result, error)

        self._inbox.put(lambda: self._calls.append(run))
        try:
            return await outcome
        finally:
            self.release_slots(1, client)

    async def cache_tokens(self, client: str = "") -> int:
        """`BatchingEngine.cache_tokens`; errors as of `call`."""
        return await self.call(lambda: self._engine.cache_tokens, client)

    def refuse(self) -> None:
        """Refuse new requests from now on."""
        self._refusing = True

    def stop(self) -> None:
        """Cancel all requests and end the thread. A second call does nothing."""
        self._refusing = self._stopping = True
        if self._thread is not None:
            self._inbox.put(lambda: None)  # wake the thread
            self._thread.join()
            self._thread = None

    # ---- in the event loop

    def _reserve(self, count: int, client: str) -> None:
        if self._refusing:
            raise ApiError(503, "the server is stopping", code="stopping")
        if self._in_flight + count > self._limit:
            raise ApiError(
                503, f"{self._in_flight} requests running or queued, expected at most {self._limit}: try again later",
                code="overloaded", headers={"Retry-After": "1"},
            )  # fmt: skip
        if client and self._held[client] + count > max(1, self._limit * 3 // 4):
            raise ApiError(
                429, f"{self._held[client]} requests of this client running or queued, expected at most "
                f"{max(1, self._limit * 3 // 4)}: try again later",
                code="rate_limit_exceeded", headers={"Retry-After": "1"},
            )  # fmt: skip
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="groundup-model", daemon=True)
            self._thread.start()
        self._in_flight += count
        self._held[client] += count

    def cancel(self, request: Request) -> None:
        """Cancel a request; no further output of it arrives. Finished requests are ignored."""
        self._inbox.put(lambda: self._cancel_request(request))

    def release_slots(self, count: int, client: str) -> None:
        self._in_flight -= count
        self._held[client] -= count
        if not self._held[client]:
            del self._held[client]

    # ---- in the engine thread

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._read_inbox()
                if self._calls:
                    self._calls.popleft()()
                self._step()
            except Exception:
                log.exception("engine step failed; its requests are cancelled")
                self._fail_all(_model_failed())
        self._drain_inbox()
        while self._calls:
            self._calls.popleft()()
        self._fail_all(ApiError(503, "the server is stopping", code="stopping"))

    def _step(self) -> None:
        if not self._engine.busy:
            return
        for output in self._engine.step():
            if stream := self._streams.get(output.request):
                stream.deliver(output)
            if output.finish_reason:
                self._streams.pop(output.request, None)

    def _read_inbox(self) -> None:
        if not self._engine.busy and not self._calls:
            self._inbox.get()()  # nothing to do: wait
        self._drain_inbox()

    def _drain_inbox(self) -> None:
        while True:
            try:
                self._inbox.get_nowait()()
            except queue.Empty:
                return

    def _admit(self, stream: "OutputStream") -> None:
        try:
            for request in stream.requests:
                self._streams[request] = stream
                self._engine.submit(request)
        except UserError as error:  # a prompt that fits the context, and not the cache
            for request in stream.requests:
                self._cancel_request(request)
            stream.deliver(ApiError(400, error.message, code="context_length_exceeded"))

    def _cancel_request(self, request: Request) -> None:
        self._streams.pop(request, None)
        self._engine.cancel(request)

    def _fail_all(self, error: ApiError) -> None:
        for stream in set(self._streams.values()):
            stream.deliver(error)
        self._streams.clear()
        self._engine.clear()


class OutputStream:
    """Outputs of a group of requests in order of arrival, for the event loop that created it."""

    def __init__(self, engine_thread: EngineThread, requests: Sequence[Request], client: str = ""):
        self.requests, self.client = requests, client
        self._engine_thread = engine_thread
        self._loop = asyncio.get_running_loop()
        self._outputs: asyncio.Queue[StepOutput | ApiError] = asyncio.Queue()
        self._open = set(requests)  # each has a place in the queue
        self._cancelled: set[Request] = set()

    def deliver(self, output: StepOutput | ApiError) -> None:
        """Add an output; called in the engine thread."""
        try:
            self._loop.call_soon_threadsafe(self._arrive, output)
        except RuntimeError:  # the event loop is closed
            for request in self.requests:
                self._engine_thread.cancel(request)

    def _arrive(self, output: StepOutput | ApiError) -> None:
        """A finished request gives up its place here, even if the client never reads its answer."""
        if isinstance(output, StepOutput) and output.finish_reason and output.request in self._open:
            self._close_request(output.request)
        self._outputs.put_nowait(output)

    async def next(self) -> StepOutput:
        """The next output. Raises ApiError when the model failed or the server is stopping."""
        while True:
            output = await self._outputs.get()
            if isinstance(output, ApiError):
                raise output
            if output.request not in self._cancelled:
                return output

    def cancel(self, request: Request) -> None:
        """Cancel one request: no further output of it."""
        self._cancelled.add(request)
        if request in self._open:
            self._engine_thread.cancel(request)
            self._close_request(request)

    def close(self) -> None:
        """Cancel all unfinished requests. A second call does nothing."""
        for request in list(self._open):
            self.cancel(request)

    def _close_request(self, request: Request) -> None:
        self._open.remove(request)
        self._engine_thread.release_slots(1, self.client)


def _model_failed() -> ApiError:
    return ApiError(500, "the model failed: see the server's log", code="model_failed")
