"""The batching engine: many requests share each step of the model, and join and leave between steps.

Iteration-level scheduling (Yu et al. 2022, Orca): a request does not wait for others to finish. Each step
reads at most one piece of one waiting prompt, then draws one token for every running request. A prompt is
read in a cache of its own, piece by piece so that nobody waits long for a long prompt (Agrawal et al. 2023,
Sarathi), and its row then joins the batch.
"""

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.generate.batch_kv_cache import BatchKVCache
from groundup.generate.generation import next_token_logits, remaining_context
from groundup.generate.sampling import SamplingParams, log_probabilities, sample_token, top_logprobs
from groundup.model import Decoder, StaticKVCache


@dataclass(eq=False)
class Request:
    """One prompt and what is wanted of it.

    Attributes:
        logprobs: also tell the log-probability of each token, and of this many likeliest others; None: no.
        tokens: what was generated so far.
    """

    prompt_ids: Sequence[int]
    max_tokens: int
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop_ids: Collection[int] = ()
    logprobs: int | None = None
    tokens: list[int] = field(default_factory=list, init=False)


@dataclass(frozen=True)
class StepOutput:
    """What a step brought for one request: a token, or the end, or both.

    `finish` is "stop" at a stop token (which is not told), "length" when max_tokens or the context is
    reached. `logprob` and `likeliest` are the model's own, in nats, when the request asked for them.
    """

    request: Request
    token: int | None
    finish_reason: Literal["stop", "length"] | None
    logprob: float | None = None
    top_logprobs: list[tuple[int, float]] = field(default_factory=list)


@dataclass(eq=False)
class _Decoding:
    request: Request
    generator: torch.Generator
    limit: int


@dataclass(eq=False)
class _Prefilling(_Decoding):
    cache: StaticKVCache
    num_prefilled: int = 0


class BatchingEngine:
    """Runs requests in one batch. Not thread-safe: one thread submits, cancels and steps.

    A greedy request gets the tokens that `generate_reference` would give it alone, whatever else runs (up to
    the rounding of matrix products of other shapes).

    Args:
        max_batch: requests that run at the same time; more wait in order.
        prefill_chunk: prompt tokens read in one step at most.
    """

    def __init__(self, model: Decoder, *, max_batch: int = 8, prefill_chunk: int = 256):
        self._model = model
        self.max_batch = max_batch
        self._prefill_chunk = prefill_chunk
        self._waiting: deque[Request] = deque()
        self._prefilling: _Prefilling | None = None
        self._running: list[_Decoding] = []  # in the order of their rows
        self._cache = BatchKVCache(max_batch)

    @property
    def running(self) -> int:
        return len(self._running) + (self._prefilling is not None)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        return bool(self._running or self._prefilling or self._waiting)

    def submit(self, request: Request) -> None:
        """Queue a request. Raises UserError when nothing is asked for, or there is no prompt or no room for it."""
        if request.max_tokens < 1:
            raise UserError(f"max_tokens = {request.max_tokens}, expected at least 1")
        remaining_context(self._model, request.prompt_ids)
        self._waiting.append(request)

    @torch.inference_mode()
    def cancel(self, request: Request) -> None:
        """Forget a request; no further event tells of it. One that is not here any more is no error."""
        if request in self._waiting:
            self._waiting.remove(request)
        elif self._prefilling and self._prefilling.request is request:
            self._prefilling = None
        else:
            for row, running in enumerate(self._running):
                if running.request is request:
                    self._remove(row)
                    return

    def clear(self) -> None:
        """Forget everything, as after a failed step."""
        self._waiting.clear()
        self._prefilling = None
        self._running.clear()
        self._cache = BatchKVCache(self.max_batch)

    @torch.inference_mode()
    def step(self) -> list[StepOutput]:
        """Draw a token for each running request, and read a piece of a prompt, if one waits and there is room."""
        events = self._decode_step()
        events += self._prefill_step()
        return events

    def _decode_step(self) -> list[StepOutput]:
        if not self._running:
            return []
        last = [[running.request.tokens[-1]] for running in self._running]
        logits = next_token_logits(self._model, last, self._cache)
        events = [self._sample(running, logits[row]) for row, running in enumerate(self._running)]
        for row in reversed(range(len(events))):  # from the end: rows still to look at stay where they are
            if events[row].finish_reason:
                self._remove(row)
        return events

    def _prefill_step(self) -> list[StepOutput]:
        if self._prefilling is None:
            if not self._waiting or len(self._running) >= self.max_batch:
                return []
            request = self._waiting.popleft()
            limit = min(request.max_tokens, remaining_context(self._model, request.prompt_ids))
            cache = self._model.new_cache(1, len(request.prompt_ids))
            self._prefilling = _Prefilling(request, request.sampling.generator(), limit, cache)
        reading = self._prefilling
        piece = list(
            reading.request.prompt_ids[reading.num_prefilled : reading.num_prefilled + self._prefill_chunk]
        )
        logits = next_token_logits(self._model, [piece], reading.cache)[0]
        reading.num_prefilled += len(piece)
        if reading.num_prefilled < len(reading.request.prompt_ids):
            return []
        self._prefilling = None
        event = self._sample(reading, logits)
        if not event.finish_reason:
            self._cache.add(reading.cache)
            self._running.append(_Decoding(reading.request, reading.generator, reading.limit))
        return [event]

    def _sample(self, running: _Decoding, logits: Tensor) -> StepOutput:
        request = running.request
        seen = (*request.prompt_ids, *request.tokens) if request.sampling.repetition_penalty != 1.0 else ()
        token = sample_token(logits, request.sampling, seen, running.generator)
        if token in request.stop_ids:
            return StepOutput(request, None, "stop")
        request.tokens.append(token)
        event = StepOutput(request, token, "length" if len(request.tokens) >= running.limit else None)
        if request.logprobs is None:
            return event
        logprobs = log_probabilities(logits)
        return replace(
            event, logprob=float(logprobs[token]), top_logprobs=top_logprobs(logprobs, request.logprobs)
        )

    def _remove(self, row: int) -> None:
        """Take a row out; the last row takes its place, in the cache as in the list."""
        self._cache.remove(row)
        self._running[row] = self._running[-1]
        self._running.pop()


def generate_many(
    model: Decoder,
    prompts: Iterable[Sequence[int]],
    *,
    max_tokens: int,
    sampling: SamplingParams = SamplingParams(),  # noqa: B008  (frozen)
    stop_ids: Collection[int] = (),
    max_batch: int = 8,
) -> list[list[int]]:
    """What follows each prompt, in their order. With a seed, prompt number i draws with seed + i."""
    engine = BatchingEngine(model, max_batch=max_batch)
    requests = []
    for number, prompt in enumerate(prompts):
        own = sampling if sampling.seed is None else replace(sampling, seed=(sampling.seed + number) % 2**64)
        requests.append(Request(prompt, max_tokens, own, stop_ids))
        engine.submit(requests[-1])
    while engine.busy:
        engine.step()
    return [request.tokens for request in requests]
