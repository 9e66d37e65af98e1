"""Engine thread: parallel requests, disconnects, full queue, failures."""

import asyncio
import contextlib
import json
import threading
import time

import pytest

from groundup.generate import GREEDY, BatchingEngine, Request, encode_prompt, generate_reference
from groundup.model import Decoder
from groundup.serve import create_app
from groundup.serve.api_error import ApiError
from groundup.serve.engine_thread import EngineThread


async def call(
    app, path: str, body: dict, leave: asyncio.Event | None = None, address: str = "127.0.0.1"
) -> tuple[int, bytes]:
    """One POST to an ASGI application; the client disconnects when `leave` is set."""
    sent = False
    status, received = 0, b""

    async def receive():
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}
        await (leave or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(message):
        nonlocal status, received
        status = message.get("status", status)
        received += message.get("body", b"")

    headers = [(b"content-type", b"application/json"), (b"host", b"localhost")]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": path,
        "raw_path": path.encode(), "query_string": b"", "root_path": "", "scheme": "http", "headers": headers,
        "client": (address, 1), "server": ("127.0.0.1", 8000),
    }  # fmt: skip
    await app(scope, receive, send)
    return status, received


@contextlib.asynccontextmanager
async def running(model, tokenizer, **knobs):
    """An application and its metrics."""
    app = create_app(model, tokenizer, name="tiny", **knobs)
    async with app.router.lifespan_context(app):
        yield app


async def gauge(app, name: str) -> int:
    received = b""

    async def send(message):
        nonlocal received
        received += message.get("body", b"")

    async def receive():
        return {"type": "http.request"}

    scope = {"type": "http", "method": "GET", "path": "/metrics", "headers": [], "query_string": b"", "root_path": ""}
    await app(scope, receive, send)
    (line,) = [line for line in received.decode().splitlines() if line.startswith(f"groundup_{name} ")]
    return int(line.split()[1])


async def until(condition, seconds: float = 20.0) -> None:
    """Wait for a condition; fails after a timeout."""
    end = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.005)


class SlowModel(Decoder):
    """A model with slow steps, which shares the weights of `model`."""

    def __init__(self, model: Decoder, seconds: float):
        self.__dict__.update(model.__dict__)
        self._seconds, self.broken = seconds, False

    def hidden_states(self, tokens, **options):
        time.sleep(self._seconds)
        if self.broken:
            raise RuntimeError("out of memory")
        return super().hidden_states(tokens, **options)


def test_parallel_requests_equal_sequential_requests(model, tokenizer):
    prompts = [f"{number} " * (1 + 9 * number % 17) for number in range(8)]

    async def all_at_once():
        async with running(model, tokenizer, max_batch=3) as app:
            asks = [
                call(
                    app, "/v1/completions", {"prompt": prompt, "max_tokens": 25, "temperature": 0, "stream": i % 2 == 0}
                )
                for i, prompt in enumerate(prompts)
            ]
            return await asyncio.gather(*asks)

    for prompt, (status, body) in zip(prompts, asyncio.run(all_at_once()), strict=True):
        assert status == 200
        tokens = generate_reference(
            model, encode_prompt(model, tokenizer, prompt), max_tokens=25, sampling=GREEDY, stop_ids=tokenizer.stop_ids
        )
        wanted = tokenizer.decode([t for t in tokens if t < tokenizer.vocab_size], skip_special_tokens=True)
        if body.startswith(b"data:"):
            objects = [json.loads(line[6:]) for line in body.decode().split("\n\n")[:-2]]
            assert "".join(each["choices"][0]["text"] for each in objects) == wanted
        else:
            assert json.loads(body)["choices"][0]["text"] == wanted


@pytest.mark.parametrize("stream", [False, True])
def test_disconnect_cancels_generation(model, tokenizer, stream):
    async def leave_early():
        async with running(SlowModel(model, 0.02), tokenizer) as app:
            leave = asyncio.Event()
            ask = {"prompt": "x", "max_tokens": 250, "temperature": 0, "stream": stream}
            task = asyncio.create_task(call(app, "/v1/completions", ask, leave))

            async def runs():
                return await gauge(app, "requests_running") == 1

            async def rests():
                return await gauge(app, "requests_running") == 0 == await gauge(app, "requests_waiting")

            await until(runs)
            leave.set()
            await task
            await until(rests)
            return await gauge(app, "generated_tokens_total")

    assert asyncio.run(leave_early()) < 200


@pytest.mark.parametrize(("addresses", "served", "status"), [(9, 5, 503), (1, 3, 429)])
def test_full_queue(model, tokenizer, addresses, served, status):
    """Of five places, one client may have three."""

    async def crowd():
        async with running(SlowModel(model, 0.002), tokenizer, max_batch=2, max_waiting=3) as app:
            ask = {"prompt": "x", "max_tokens": 10, "temperature": 0}
            names = [f"127.0.0.{number % addresses}" for number in range(9)]
            answers = await asyncio.gather(*(call(app, "/v1/completions", ask, address=name) for name in names))
            assert (await call(app, "/v1/completions", ask))[0] == 200  # there is room again
            return answers

    answers = asyncio.run(crowd())
    assert sorted(each for each, _ in answers) == [200] * served + [status] * (9 - served)
    code = {503: "overloaded", 429: "rate_limit_exceeded"}[status]
    assert {json.loads(body)["error"]["code"] for each, body in answers if each != 200} == {code}
    assert len({json.loads(body)["choices"][0]["text"] for each, body in answers if each == 200}) == 1


def test_clients_take_turns(model):
    """The one request of a client does not wait for all those of another."""

    async def finish() -> list[str]:
        worker = EngineThread(BatchingEngine(model, max_batch=2), max_waiting=100)
        ended: list[str] = []

        async def read(client: str, count: int) -> None:
            stream = worker.submit([Request([5], 20, GREEDY) for _ in range(count)], client)
            while count:
                if (await stream.next()).finish_reason:
                    ended.append(client)
                    count -= 1

        await asyncio.gather(read("many", 40), read("one", 1))
        worker.stop()
        return ended

    ended = asyncio.run(finish())
    assert len(ended) == 41
    assert ended.index("one") < 20


@pytest.mark.parametrize("stream", [False, True])
def test_model_failure(model, tokenizer, stream, caplog):
    async def fail():
        slow = SlowModel(model, 0)
        async with running(slow, tokenizer) as app:
            ask = {"prompt": "x", "max_tokens": 5, "temperature": 0, "stream": stream}
            slow.broken = True
            first = await call(app, "/v1/completions", ask)
            slow.broken = False
            return first, await call(app, "/v1/completions", ask)

    (status, body), (later, _) = asyncio.run(fail())
    assert status == (200 if stream else 500)  # a stream's status is out before the model begins
    assert b"model_failed" in body
    assert b"out of memory" not in body
    assert "out of memory" in caplog.text
    assert later == 200


def test_refused_request_keeps_the_thread_alive(model):
    async def refuse():
        worker = EngineThread(BatchingEngine(model), max_waiting=1)
        bad = worker.submit([Request([], 5)])
        with pytest.raises(ApiError, match="prompt"):
            await bad.next()
        bad.close()
        good = worker.submit([Request([1], 1, GREEDY)])
        event = await good.next()
        good.close()
        worker.stop()
        return event

    assert asyncio.run(refuse()).finish_reason == "length"


def test_event_loop_is_not_blocked(model, tokenizer):
    async def watch():
        async with running(SlowModel(model, 0.3), tokenizer) as app:
            ask = asyncio.create_task(call(app, "/v1/completions", {"prompt": "x", "max_tokens": 3}))
            turns = 0
            while not ask.done():
                await asyncio.sleep(0.001)
                turns += 1
            return turns

    assert asyncio.run(watch()) > 30  # a loop that waited for each step would turn a few times


def test_stop(model):
    def threads() -> int:
        return sum(thread.name == "groundup-model" for thread in threading.enumerate())

    before = threads()

    async def stop():
        worker = EngineThread(BatchingEngine(SlowModel(model, 0.01)), max_waiting=1)
        stream = worker.submit([Request([1], 200, GREEDY)])
        await stream.next()
        assert threads() == before + 1
        await asyncio.to_thread(worker.stop)
        with pytest.raises(ApiError, match="stopping"):
            await exhaust(stream)
        with pytest.raises(ApiError, match="stopping"):
            worker.submit([Request([1], 2)])
        stream.close()
        worker.stop()

    asyncio.run(stop())
    assert threads() == before


async def exhaust(stream) -> None:
    while True:
        await stream.next()


def test_a_client_that_does_not_read_gives_up_its_place(model):
    async def stall():
        worker = EngineThread(BatchingEngine(model, max_batch=2), max_waiting=0)
        streams = [worker.submit([Request([number], 3, GREEDY)]) for number in (1, 2)]

        async def free():
            return worker.in_flight == 0

        await until(free)  # though nobody has called next()
        later = worker.submit([Request([3], 1, GREEDY)])
        assert (await later.next()).finish_reason == "length"
        read = [await streams[0].next() for _ in range(3)]
        for stream in (*streams, later):
            stream.close()
        worker.stop()
        assert worker.in_flight == 0
        return read

    assert [output.finish_reason for output in asyncio.run(stall())] == [None, None, "length"]


@pytest.mark.parametrize("seconds", [0.0, 20.0])
def test_stopping_lets_answers_end_within_a_time(model, tokenizer, seconds):
    async def stop():
        async with running(SlowModel(model, 0.01), tokenizer) as app:
            ask = {"prompt": "x", "max_tokens": 20, "temperature": 0, "stream": True}
            running_one = asyncio.create_task(call(app, "/v1/completions", ask))

            async def runs():
                return await gauge(app, "generated_tokens_total") > 2

            await until(runs)
            ending = asyncio.create_task(app.state.stop_generation(seconds))
            await asyncio.sleep(0)
            newcomer = await call(app, "/v1/completions", ask | {"stream": False})
            await ending
            return newcomer, await running_one

    (status, body), (_, streamed) = asyncio.run(stop())
    assert (status, json.loads(body)["error"]["code"]) == (503, "stopping")
    assert streamed.endswith(b"data: [DONE]\n\n")
    assert (b'"stopping"' in streamed) == (seconds == 0)
    assert (b'"finish_reason":"length"' in streamed) == (seconds > 0)


def test_a_step_of_the_engine_between_two_functions(model):
    """Many embeddings at once do not keep those who wait for tokens."""

    async def lengths() -> list[int]:
        thread, go = EngineThread(BatchingEngine(model), max_waiting=20), threading.Event()
        request = Request([5], max_tokens=20, sampling=GREEDY)
        first = asyncio.ensure_future(thread.call(lambda: go.wait(20)))
        await asyncio.sleep(0)
        stream = thread.submit([request])
        calls = [asyncio.ensure_future(thread.call(lambda: len(request.tokens))) for _ in range(5)]
        await asyncio.sleep(0)
        go.set()
        await first
        found = await asyncio.gather(*calls)
        stream.close()
        await asyncio.to_thread(thread.stop)
        return found

    found = asyncio.run(lengths())
    assert found == sorted(set(found))
