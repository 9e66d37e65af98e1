"""Continuous batching: many requests share each forward pass, and are added and removed between steps.

Iteration-level scheduling (Yu et al. 2022, Orca). Each step decodes one token for every running request and prefills so many
prompt tokens (chunked prefill, Agrawal et al. 2023, Sarathi), the prompts in turn. Keys and values are in pages of a fixed
budget (Kwon et al. 2023): a request is admitted when there are pages for its prompt; when decoding needs a page and there is
none, the request that came last gives up its pages and is computed again. Samples of one prompt share its pages.
"""

from collections import Counter, deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.generate.batch_invariance import batch_invariance
from groundup.generate.detokenizer import StreamDetokenizer
from groundup.generate.generation import (
    GenerativeModel,
    continued_ids,
    encode_prompt,
    next_token_logits,
    remaining_context,
    require_generative,
)
from groundup.generate.kv_cache_budget import new_paged_cache
from groundup.generate.paged_kv_cache import PAGE_SIZE, CachedSequence, PagedKVCache
from groundup.generate.request import ModelVariants, Request, StepOutput
from groundup.generate.sampling import InvalidLogitsError, SamplingParams, log_probabilities, top_logprobs
from groundup.generate.sequence_sampler import SequenceSampler
from groundup.model import EncoderDecoder
from groundup.model.attention import CrossKeyValues
from groundup.tokenizer import Tokenizer


@dataclass(eq=False)
class _Row:
    """A request in the engine.

    Attributes:
        number: order of arrival.
        tokens: of the decoder: its prompt, and those generated so far.
        limit: generated tokens at most.
        sequence: its keys and values, while it decodes.
    """

    request: Request
    number: int
    tokens: list[int]
    limit: int
    sampler: SequenceSampler
    sequence: CachedSequence | None = None


@dataclass(eq=False)
class _Prefill:
    """A sequence whose tokens are being read, and the requests that continue it: samples of one prompt share it."""

    rows: list[_Row]
    sequence: CachedSequence

    @property
    def tokens(self) -> list[int]:
        return self.rows[0].tokens


class BatchingEngine:
    """Runs requests in one batch. Not thread-safe: one thread submits, cancels and steps. Changed weights need `clear`, which
    drops what is kept of earlier texts.

    The tokens of a greedy request equal those of `generate`, whatever else runs (up to the rounding of matrix products of
    other shapes; to the last bit with `make_deterministic`).

    Args:
        max_batch: requests that run at the same time; more wait in order.
        prefill_chunk: prompt tokens prefilled per step at most.
        cache_memory: bytes for keys and values; default: see `new_paged_cache`.
        variants: `model` with adapters, which requests name.

    Attributes:
        preemptions: requests that gave up their pages so far.

    >>> engine = BatchingEngine(model)
    >>> engine.submit(Request(tokenizer.encode("Hello"), max_tokens=20))
    >>> while engine.busy:
    ...     for output in engine.step():
    ...         print(output.token)
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        max_batch: int = 8,
        prefill_chunk: int = 256,
        cache_memory: int | None = None,
        variants: ModelVariants | None = None,
    ):
        self._model = cast(GenerativeModel, model)  # of an encoder, `submit` refuses every request
        self.max_batch = max_batch
        self._prefill_chunk, self._cache_memory, self._variants = prefill_chunk, cache_memory, variants
        self._num_submitted = 0
        self.preemptions = 0
        self._has_groups = False
        self._waiting: deque[_Row] = deque()  # in order of arrival
        self._prefilling: deque[_Prefill] = deque()
        self._running: list[_Row] = []

    @cached_property
    def cache(self) -> PagedKVCache:
        return new_paged_cache(self._model, self.max_batch, self._cache_memory)

    @property
    def running(self) -> int:
        return len(self._running) + sum(len(prefill.rows) for prefill in self._prefilling)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        return bool(self._running or self._prefilling or self._waiting)

    def submit(self, request: Request) -> None:
        """Queue a request. Raises UserError when max_tokens < 1, or the prompt is empty or fills the context or the cache."""
        if request.max_tokens < 1:
            raise UserError(f"max_tokens = {request.max_tokens}, expected at least 1")
        if request.adapter is not None and (self._variants is None or request.adapter not in self._variants):
            raise UserError(f"no adapter {request.adapter!r} in this engine", hint="BatchingEngine(variants=...)")
        limit = min(request.max_tokens, remaining_context(self._model, request.prompt_ids))
        tokens = self._decoder_tokens(request)
        room = self.cache.pool.num_pages * PAGE_SIZE - len(tokens)
        if room < 1:
            raise UserError(
                f"the prompt has {len(tokens)} tokens, expected at most {room + len(tokens) - 1}: "
                "the key/value cache holds no more",
                hint="shorten the prompt, or give the cache more memory",
            )
        context = continued_ids(self._model, request.prompt_ids)
        sampler = SequenceSampler(request.sampling, context, request.stop_ids)
        row = _Row(request, self._num_submitted, tokens, min(limit, room), sampler)
        self._waiting.append(row)
        self._num_submitted += 1
        self._has_groups = self._has_groups or request.group is not None

    @torch.inference_mode()
    def cancel(self, request: Request) -> None:
        """Drop a request: no further output. A finished or unknown request is ignored."""
        self._waiting = deque(row for row in self._waiting if row.request is not request)
        self._finish([row for row in self._running if row.request is request])
        for prefill in list(self._prefilling):
            left = [row for row in prefill.rows if row.request is not request]
            if left:
                prefill.rows = left
            else:
                self._drop(prefill)

    def clear(self) -> None:
        """Drop all requests and the cache, as after a failed step."""
        self._waiting.clear()
        self._prefilling.clear()
        self._running.clear()
        self.__dict__.pop("cache", None)

    @torch.inference_mode()
    def step(self) -> list[StepOutput]:
        """Decode a token for each running request, and prefill some tokens of those that wait, in turn."""
        return self._decode_step() + self._prefill_step()

    # ---- decoding

    def _decode_step(self) -> list[StepOutput]:
        for row in sorted(self._running, key=lambda row: row.number):
            while row.sequence is not None and not self.cache.reserve(row.sequence, 1):
                self._preempt()
        if not self._running:
            return []
        rows = self._running
        sequences = [_cached(row) for row in rows]
        logits = self._next_logits([row.tokens[-1:] for row in rows], sequences, [row.request.adapter for row in rows])
        for row in rows:
            self.cache.remember(_cached(row), row.tokens)
        outputs = [self._sample(row, logits[index]) for index, row in enumerate(rows)]
        self._finish([row for row, output in zip(rows, outputs, strict=True) if output.finish_reason])
        return outputs

    def _next_logits(
        self, tokens: list[list[int]], sequences: list[CachedSequence], adapters: list[str | None]
    ) -> Float[Tensor, "B V"]:
        """Logits of the token after each row, which have so many tokens each."""
        if self._variants is None or not any(adapters):
            mixes = self._variants is not None
            return next_token_logits(self._model, tokens, self.cache.batch(sequences), mixes_adapters=mixes)
        parts: dict[int, Tensor] = {}
        for rows, model in self._variants.groups(adapters):
            batch = self.cache.batch([sequences[row] for row in rows])
            inputs = [tokens[row] for row in rows]
            logits = next_token_logits(cast(GenerativeModel, model), inputs, batch, mixes_adapters=True)
            parts |= zip(rows, logits, strict=True)
        return torch.stack([parts[row] for row in range(len(tokens))])

    def _preempt(self) -> None:
        """Take the pages of the request that came last: it waits, and is computed again."""
        self.preemptions += 1
        last = max(self._running, key=lambda row: row.number)
        prefill = max(self._prefilling, key=lambda prefill: prefill.rows[0].number, default=None)
        if prefill is not None and prefill.rows[0].number > last.number:
            self._drop(prefill)
            self._waiting.extendleft(reversed(prefill.rows))
        else:
            self._finish([last])
            self._waiting.appendleft(last)

    def _finish(self, rows: Collection[_Row]) -> None:
        """Take rows out of the batch, with their pages."""
        for row in rows:
            self.cache.free(_cached(row))
            row.sequence = None
        self._running = [row for row in self._running if row.sequence is not None]

    # ---- prefill

    def _prefill_step(self) -> list[StepOutput]:
        """Read up to `prefill_chunk` tokens: half of them of the prompt whose turn it is, then new prompts, then the others."""
        outputs: list[StepOutput] = []
        budget, first = self._prefill_chunk, True
        while budget > 0:
            prefill = self._prefilling[0] if first and self._prefilling else self._admit()
            if prefill is None:
                if not self._prefilling:
                    break
                prefill = self._prefilling[0]
            shared = first and (len(self._prefilling) > 1 or self._waiting)
            size, first = -(-budget // 2) if shared else budget, False
            budget -= self._read(prefill, size, outputs)
        return outputs

    def _read(self, prefill: _Prefill, size: int, outputs: list[StepOutput]) -> int:
        """Read up to `size` tokens of a prompt; returns how many. Its first output, if it is read to the end, joins `outputs`."""
        sequence, tokens = prefill.sequence, prefill.tokens
        chunk = tokens[sequence.length : sequence.length + size]
        logits = self._next_logits([chunk], [sequence], [prefill.rows[0].request.adapter])[0]
        self.cache.remember(sequence, tokens)
        if sequence.length == len(tokens):
            outputs += [self._start(row, self.cache.fork(sequence), logits) for row in prefill.rows]
            self._drop(prefill)
        else:  # its next turn comes after the others
            self._prefilling.remove(prefill)
            self._prefilling.append(prefill)
        return len(chunk)

    def _admit(self) -> _Prefill | None:
        """Begin to read the next prompt, if there are a row and pages: each running row may need one more."""
        while (row := self._next_waiting()) is not None:
            if prefill := self._same_prompt(row):
                self._waiting.remove(row)
                prefill.rows.append(row)
                continue
            adapter = row.request.adapter
            sequence = self.cache.begin(row.tokens, b"" if adapter is None else sha256(adapter.encode()).digest())
            needed = self.cache.new_pages(sequence, len(row.tokens) - sequence.length)
            if self.running and needed + len(self._running) > self.cache.pool.available:
                self.cache.free(sequence)
                return None
            self.cache.reserve(sequence, len(row.tokens) - sequence.length)
            if isinstance(self._model, EncoderDecoder):
                sequence.layer_cross_key_values = self._read_source(row.request)
            self._waiting.remove(row)
            prefill = _Prefill([row], sequence)
            self._prefilling.append(prefill)
            while (other := self._next_waiting()) is not None and self._same_prompt(other) is prefill:
                self._waiting.remove(other)
                prefill.rows.append(other)
            return prefill
        return None

    def _next_waiting(self) -> _Row | None:
        """The first request of the group with the fewest rows, if there is a row for it."""
        if not self._waiting or self.running >= self.max_batch:
            return None
        if not self._has_groups:
            return self._waiting[0]
        rows = (*self._running, *(row for prefill in self._prefilling for row in prefill.rows))
        taken = Counter(row.request.group for row in rows if row.request.group is not None)
        most = self.max_batch - self.max_batch // 4
        permitted = [row for row in self._waiting if taken[row.request.group] < most]
        return min(permitted, key=lambda row: (taken[row.request.group], row.number), default=None)

    def _same_prompt(self, row: _Row) -> _Prefill | None:
        """A prompt that is being read and that `row` continues too."""
        for prefill in self._prefilling:
            one, other = prefill.rows[0].request, row.request
            same = one.adapter == other.adapter and list(one.prompt_ids) == list(other.prompt_ids)
            if same and not one.tokens and not other.tokens:
                return prefill
        return None

    def _drop(self, prefill: _Prefill) -> None:
        self._prefilling.remove(prefill)
        self.cache.free(prefill.sequence)

    def _start(self, row: _Row, sequence: CachedSequence, logits: Tensor) -> StepOutput:
        """The first token of a request whose prompt is read, or the next one of a request that was preempted."""
        row.sequence = sequence
        self._running.append(row)
        output = self._sample(row, logits)
        if output.finish_reason:
            self._finish([row])
        return output

    # ----

    def _read_source(self, request: Request) -> list[CrossKeyValues]:
        """Of an encoder-decoder: the cross-attention's keys and values for the source text."""
        model = cast(EncoderDecoder, self._model if self._variants is None else self._variants[request.adapter])
        source = torch.tensor([list(request.prompt_ids)], device=self.cache.device)
        with batch_invariance(model):
            return model.new_cache(source, 1).layer_cross_key_values

    def _decoder_tokens(self, request: Request) -> list[int]:
        """The tokens that the decoder reads first."""
        model = self._model
        return list(model.config.decoder_prefix if isinstance(model, EncoderDecoder) else request.prompt_ids)

    def _sample(self, running: _Row, logits: Tensor) -> StepOutput:
        """The next token of one request. A fault in its logits ends this request alone."""
        request = running.request
        try:
            token = running.sampler.next(logits)
        except InvalidLogitsError as fault:
            return StepOutput(request, None, "error", error=fault)
        if token in request.stop_ids:
            return StepOutput(request, None, "stop")
        request.tokens.append(token)
        running.tokens.append(token)
        full = len(request.tokens) >= running.limit
        output = StepOutput(request, token, "stop" if running.sampler.complete else "length" if full else None)
        if request.logprobs is None:
            return output
        logprobs = log_probabilities(logits)
        return replace(output, logprob=float(logprobs[token]), top_logprobs=top_logprobs(logprobs, request.logprobs))


def _cached(row: _Row) -> CachedSequence:
    assert row.sequence is not None
    return row.sequence


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
