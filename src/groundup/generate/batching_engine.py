"""Continuous batching: many requests share each forward pass, and are added and removed between steps.

Iteration-level scheduling (Yu et al. 2022, Orca): a request does not wait for others to finish. Each step decodes one
token for every running request and prefills one chunk of one prompt (chunked prefill, Agrawal et al. 2023, Sarathi), the
prompts in turn, so that a short one does not wait for a long one. A prompt has a cache of its own, which is then added to the
batch: several times, if the next requests have the same prompt.
"""

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, cast

import torch
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.generate.batch_kv_cache import BatchKVCache, CrossAttentionBatchCache
from groundup.generate.detokenizer import StreamDetokenizer
from groundup.generate.generation import (
    GenerativeModel,
    continued_ids,
    encode_prompt,
    next_token_logits,
    remaining_context,
    require_generative,
    start_decoding,
)
from groundup.generate.sampling import InvalidLogitsError, SamplingParams, log_probabilities, top_logprobs
from groundup.generate.sequence_sampler import SequenceSampler
from groundup.model import EncoderDecoder, StaticKVCache
from groundup.tokenizer import Tokenizer


@dataclass(eq=False)
class Request:
    """One prompt with its limits and sampling parameters.

    Attributes:
        logprobs: also return the log-probability of each token and of this many most likely tokens; None: no.
        tokens: generated so far.
    """

    prompt_ids: Sequence[int]
    max_tokens: int
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop_ids: Collection[int] = ()
    logprobs: int | None = None
    tokens: list[int] = field(default_factory=list, init=False)


@dataclass(frozen=True)
class StepOutput:
    """Result of a step for one request: a token, a finish reason, or both.

    `finish_reason` is "stop" at a stop token (which is not returned) or when the text of a grammar is complete, "length"
    when max_tokens or the context length is reached, "error" when no token could be chosen; `error` says why. `logprob` and
    `top_logprobs` are in nats, before temperature and filters, if `Request.logprobs` is set.
    """

    request: Request
    token: int | None
    finish_reason: Literal["stop", "length", "error"] | None
    logprob: float | None = None
    top_logprobs: list[tuple[int, float]] = field(default_factory=list)
    error: InvalidLogitsError | None = None


@dataclass(eq=False)
class _Decoding:
    request: Request
    sampler: SequenceSampler
    limit: int


@dataclass(eq=False)
class _Prefill:
    """A prompt, as far as it is read, and the requests that it is of: samples share it."""

    requests: list[Request]
    cache: StaticKVCache
    prompt_ids: Sequence[int]  # of the decoder
    num_read: int = 0


class BatchingEngine:
    """Runs requests in one batch. Not thread-safe: one thread submits, cancels and steps.

    The tokens of a greedy request equal those of `generate_reference`, whatever else runs (up to the rounding of matrix
    products of other shapes).

    Args:
        max_batch: requests that run at the same time; more wait in order.
        prefill_chunk: prompt tokens prefilled per step at most.

    >>> engine = BatchingEngine(model)
    >>> engine.submit(Request(tokenizer.encode("Hello"), max_tokens=20))
    >>> while engine.busy:
    ...     for output in engine.step():
    ...         print(output.token)
    """

    def __init__(self, model: nn.Module, *, max_batch: int = 8, prefill_chunk: int = 256):
        self._model = cast(GenerativeModel, model)  # of an encoder, `submit` refuses every request
        self.max_batch = max_batch
        self._prefill_chunk = prefill_chunk
        self._waiting: deque[Request] = deque()
        self._prefilling: deque[_Prefill] = deque()
        self._running: list[_Decoding] = []  # in row order
        self._cache = self._new_cache()

    @property
    def running(self) -> int:
        return len(self._running) + sum(len(prefill.requests) for prefill in self._prefilling)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        return bool(self._running or self._prefilling or self._waiting)

    def submit(self, request: Request) -> None:
        """Queue a request. Raises UserError when max_tokens < 1, or the prompt is empty or fills the context."""
        if request.max_tokens < 1:
            raise UserError(f"max_tokens = {request.max_tokens}, expected at least 1")
        remaining_context(self._model, request.prompt_ids)
        self._waiting.append(request)

    @torch.inference_mode()
    def cancel(self, request: Request) -> None:
        """Drop a request: no further output. A finished or unknown request is ignored."""
        if request in self._waiting:
            self._waiting.remove(request)
        else:
            for prefill in self._prefilling:
                prefill.requests = [each for each in prefill.requests if each is not request]
            self._prefilling = deque(prefill for prefill in self._prefilling if prefill.requests)
            for row, running in enumerate(self._running):
                if running.request is request:
                    self._remove(row)
                    return

    def clear(self) -> None:
        """Drop all requests, as after a failed step."""
        self._waiting.clear()
        self._prefilling.clear()
        self._running.clear()
        self._cache = self._new_cache()

    def _new_cache(self) -> BatchKVCache:
        kind = CrossAttentionBatchCache if isinstance(self._model, EncoderDecoder) else BatchKVCache
        return kind(self.max_batch)

    @torch.inference_mode()
    def step(self) -> list[StepOutput]:
        """Decode a token for each running request; prefill a chunk of a waiting prompt if a row is free."""
        return self._decode_step() + self._prefill_step()

    def _decode_step(self) -> list[StepOutput]:
        if not self._running:
            return []
        last = [[running.request.tokens[-1]] for running in self._running]
        logits = next_token_logits(self._model, last, self._cache)
        outputs = [self._sample(running, logits[row]) for row, running in enumerate(self._running)]
        for row in reversed(range(len(outputs))):  # backwards: removing a row moves only later rows
            if outputs[row].finish_reason:
                self._remove(row)
        return outputs

    def _prefill_step(self) -> list[StepOutput]:
        while self._waiting and self.running < self.max_batch:
            self._admit(self._waiting.popleft())
        if not self._prefilling:
            return []
        prefill = self._prefilling.popleft()
        chunk = list(prefill.prompt_ids[prefill.num_read : prefill.num_read + self._prefill_chunk])
        logits = next_token_logits(self._model, [chunk], prefill.cache)[0]
        prefill.num_read += len(chunk)
        if prefill.num_read < len(prefill.prompt_ids):
            self._prefilling.append(prefill)
            return []
        return [self._start(request, prefill.cache, logits) for request in prefill.requests]

    def _admit(self, request: Request) -> None:
        """Join the prefill of the same prompt, or begin one."""
        for prefill in self._prefilling:
            prompt_ids = prefill.requests[0].prompt_ids
            if prompt_ids is request.prompt_ids or list(prompt_ids) == list(request.prompt_ids):
                prefill.requests.append(request)
                return
        cache, prompt_ids = start_decoding(self._model, request.prompt_ids, 1)
        self._prefilling.append(_Prefill([request], cache, prompt_ids))

    def _start(self, request: Request, prompt_cache: StaticKVCache, logits: Tensor) -> StepOutput:
        """The first token of a request whose prompt is read."""
        limit = min(request.max_tokens, remaining_context(self._model, request.prompt_ids))
        context = continued_ids(self._model, request.prompt_ids)
        decoding = _Decoding(request, SequenceSampler(request.sampling, context, request.stop_ids), limit)
        output = self._sample(decoding, logits)
        if not output.finish_reason:
            self._cache.add(prompt_cache)
            self._running.append(decoding)
        return output

    def _sample(self, running: _Decoding, logits: Tensor) -> StepOutput:
        """The next token of one request. A fault in its logits ends this request alone."""
        request = running.request
        try:
            token = running.sampler.next(logits)
        except InvalidLogitsError as fault:
            return StepOutput(request, None, "error", error=fault)
        if token in request.stop_ids:
            return StepOutput(request, None, "stop")
        request.tokens.append(token)
        full = len(request.tokens) >= running.limit
        output = StepOutput(request, token, "stop" if running.sampler.complete else "length" if full else None)
        if request.logprobs is None:
            return output
        logprobs = log_probabilities(logits)
        return replace(output, logprob=float(logprobs[token]), top_logprobs=top_logprobs(logprobs, request.logprobs))

    def _remove(self, row: int) -> None:
        """Remove a row of the cache and of the list; the last row moves to its index."""
        self._cache.remove(row)
        self._running[row] = self._running[-1]
        self._running.pop()


def generate_texts(
    model: nn.Module,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    max_tokens: int = 128,
    sampling: SamplingParams = SamplingParams(),  # noqa: B008  (frozen)
) -> list[str]:
    """`generate_text` for many texts, in batches: continuations, or translations and summaries of an encoder-decoder.

    >>> generate_texts(model, tokenizer, ["Save changes", "Password"], sampling=GREEDY)
    """
    model = require_generative(model)
    prompts = [encode_prompt(model, tokenizer, text) for text in texts]
    answers = generate_many(model, prompts, max_tokens=max_tokens, sampling=sampling, stop_ids=tokenizer.stop_ids)
    return [
        StreamDetokenizer(tokenizer, continued_ids(model, prompt)).decode_all(answer)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def generate_many(
    model: GenerativeModel,
    prompts: Iterable[Sequence[int]],
    *,
    max_tokens: int,
    sampling: SamplingParams = SamplingParams(),  # noqa: B008  (frozen)
    stop_ids: Collection[int] = (),
    max_batch: int = 8,
) -> list[list[int]]:
    """The tokens that follow each prompt, generated in one batch; with a seed, prompt i is sampled with seed + i.

    >>> generate_many(model, [tokenizer.encode(text) for text in prompts], max_tokens=50)
    """
    engine = BatchingEngine(model, max_batch=max_batch)
    requests = []
    for index, prompt in enumerate(prompts):
        requests.append(Request(prompt, max_tokens, sampling.numbered(index), stop_ids))
        engine.submit(requests[-1])
    while engine.busy:
        for output in engine.step():
            if output.error is not None:
                raise output.error
    return [request.tokens for request in requests]
