"""Continuous batching: many requests share each forward pass, and are added and removed between steps.

Iteration-level scheduling (Yu et al. 2022, Orca). Each step is one pass that decodes every running request and prefills so many
prompt tokens (chunked prefill, Agrawal et al. 2023, Sarathi), the prompts in turn. Keys and values are in pages of a fixed
budget (Kwon et al. 2023): a request is admitted when there are pages for its prompt; when decoding needs a page and there is
none, the request that came last gives up its pages and is computed again. Samples of one prompt share its pages. With a
proposer, a request decodes several tokens in a step, as long as few requests run.
"""

from collections import Counter, deque
from collections.abc import Collection, Hashable
from dataclasses import replace
from functools import cached_property
from hashlib import sha256
from typing import cast

import torch
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.freed_memory import release_freed_memory
from groundup.generate.engine_rows import EngineRow, PromptPrefill
from groundup.generate.generation import (
    LONG_PROMPT,
    GenerativeModel,
    continued_ids,
    cross_key_values,
    decoder_ids,
    remaining_context,
)
from groundup.generate.kv_cache_budget import new_paged_cache
from groundup.generate.native.decode_step import MAX_ROWS
from groundup.generate.paged_kv_cache import PAGE_SIZE, CachedSequence, PagedKVCache
from groundup.generate.ragged_batch import NewTokens, ragged_logits
from groundup.generate.request import ModelVariants, Request, StepOutput
from groundup.generate.sampling import InvalidLogitsError, log_probabilities, top_logprobs
from groundup.generate.sequence_sampler import SequenceSampler
from groundup.generate.speculative_decoding import OpenText, Proposer, check_can_speculate


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
        proposer: guesses tokens (speculative decoding): the same answers in fewer steps.

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
        proposer: Proposer | None = None,
    ):
        if proposer is not None:
            check_can_speculate(model)
        self.proposer = proposer
        self._model = cast(GenerativeModel, model)  # of an encoder, `submit` refuses every request
        self.max_batch = max_batch
        self._prefill_chunk, self._cache_memory, self._variants = prefill_chunk, cache_memory, variants
        self._num_submitted = 0
        self.preemptions = 0
        self._has_groups = False
        self._waiting: deque[EngineRow] = deque()  # in order of arrival
        self._postponed: list[EngineRow] = []  # of them, those that are not admitted in this step
        self._prefilling: deque[PromptPrefill] = deque()
        self._running: list[EngineRow] = []

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

    @property
    def cache_tokens(self) -> int:
        """Tokens whose keys and values fit into the cache."""
        return self.cache.pool.num_pages * PAGE_SIZE

    def submit(self, request: Request) -> None:
        """Queue a request. Raises UserError when max_tokens < 1, or the prompt is empty or fills the context or the cache."""
        if request.max_tokens < 1:
            raise UserError(f"max_tokens = {request.max_tokens}, expected at least 1")
        if request.adapter is not None and (self._variants is None or request.adapter not in self._variants):
            raise UserError(f"no adapter {request.adapter!r} in this engine", hint="BatchingEngine(variants=...)")
        limit = min(request.max_tokens, remaining_context(self._model, request.prompt_ids, request.decoder_prefix))
        tokens = decoder_ids(self._model, request.prompt_ids, request.decoder_prefix)
        room = self.cache_tokens - len(tokens)
        if room < 1:
            most = room + len(tokens) - 1
            raise UserError(
                f"the prompt has {len(tokens)} tokens, expected at most {most}: the key/value cache holds no more",
                hint="shorten the prompt, or give the cache more memory",
            )
        context = continued_ids(self._model, request.prompt_ids)
        sampler = SequenceSampler(request.sampling, context, request.stop_ids)
        text = OpenText(request.prompt_ids, list(tokens), sampler)
        row = EngineRow(request, self._num_submitted, tokens, min(limit, room), text)
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
        for row in self._running:
            self._forget(row)
        for rows in (self._waiting, self._prefilling, self._running):
            rows.clear()
        self.__dict__.pop("cache", None)

    @torch.inference_mode()
    def step(self) -> list[StepOutput]:
        """Decode for each running request, and prefill some tokens of those that wait, in turn. One output a token."""
        self._make_room()
        decoding, prefilling = self._reserve_tokens(), self._plan_prefill()
        parts = [
            NewTokens(row.cached, [row.tokens[-1], *proposed], 1 + len(proposed), row.request.adapter)
            for row, proposed in decoding
        ]
        parts += [
            NewTokens(each.sequence, each.tokens[each.sequence.length : each.planned], 1, each.rows[0].request.adapter)
            for each in prefilling
        ]
        if not parts:
            return []
        logits = iter(ragged_logits(self._model, self.cache, parts, self._variants))
        outputs: list[StepOutput] = []
        for row, proposed in decoding:
            outputs += self._check(row, proposed, next(logits))
        for prefill in prefilling:
            outputs += self._end_prefill(prefill, next(logits)[-1])
        return outputs

    # ---- decoding

    def _reserve_tokens(self) -> list[tuple[EngineRow, list[int]]]:
        """The running requests, which have room for a token each, and the proposed tokens, which have too."""
        for row in sorted(self._running, key=lambda row: row.number):
            while row.sequence is not None and not self.cache.reserve(row.sequence, 1):
                self._preempt()
        rows = list(self._running)
        if self.proposer is None or not rows:
            return [(row, []) for row in rows]
        most = MAX_ROWS // len(rows) - 1  # a pass over few tokens takes as long as over one
        counts = [max(min(row.text.count, most, row.limit - len(row.request.tokens) - 1), 0) for row in rows]
        proposals = self.proposer.propose([row.text for row in rows], counts)
        self.proposer.counts.passes += 1
        self.proposer.counts.proposed += sum(map(len, proposals))
        return [
            (row, proposed if self.cache.reserve(row.cached, 1 + len(proposed)) else [])
            for row, proposed in zip(rows, proposals, strict=True)
        ]

    def _check(self, row: EngineRow, proposed: list[int], logits: Tensor) -> list[StepOutput]:
        """Sample a token after each proposed one, up to the first that differs."""
        outputs = []
        for place, guess in enumerate([*proposed, None]):
            outputs.append(self._sample(row, logits[place]))
            if outputs[-1].finish_reason or outputs[-1].token != guess:
                break
        sequence = row.cached
        sequence.length = len(row.tokens) - 1  # without rejected tokens
        self.cache.remember(sequence, row.tokens)
        if self.proposer is not None:
            accepted = len(outputs) - 1  # after which the text goes on
            self.proposer.counts.accepted += accepted
            row.text.adapt(len(proposed), accepted)
        if outputs[-1].finish_reason:
            self._finish([row])
        return outputs

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

    def _finish(self, rows: Collection[EngineRow]) -> None:
        """Take rows out of the batch, with their pages."""
        for row in rows:
            self._forget(row)
            self.cache.free(row.cached)
            row.sequence = None
        self._running = [row for row in self._running if row.sequence is not None]

    def _forget(self, row: EngineRow) -> None:
        if self.proposer is not None:
            self.proposer.forget(row.text)

    # ---- prefill

    def _plan_prefill(self) -> list[PromptPrefill]:
        """Prompts of which up to `prefill_chunk` tokens are read in this step: half of them of the one whose turn it is, then of
        new prompts, then of the others."""
        chosen: list[PromptPrefill] = []
        self._postponed.clear()
        budget, first = self._prefill_chunk, True
        while budget > 0:
            unread = next((each for each in self._prefilling if each.planned < len(each.tokens)), None)
            prefill = unread if first and unread else self._admit() or unread
            if prefill is None:
                break
            shared = first and (len(self._prefilling) > 1 or self._waiting)
            size = min(-(-budget // 2) if shared else budget, len(prefill.tokens) - prefill.planned)
            first, budget = False, budget - size
            prefill.planned += size
            if prefill not in chosen:
                chosen.append(prefill)
            self._prefilling.remove(prefill)  # its next turn comes after the others
            self._prefilling.append(prefill)
        return chosen

    def _end_prefill(self, prefill: PromptPrefill, logits: Tensor) -> list[StepOutput]:
        """The first tokens of the requests whose prompt is read to the end."""
        sequence, tokens = prefill.sequence, prefill.tokens
        self.cache.remember(sequence, tokens)
        if sequence.length < len(tokens):
            return []
        outputs = [self._start(row, self.cache.fork(sequence), logits) for row in prefill.rows]
        self._drop(prefill)
        if len(tokens) >= LONG_PROMPT:
            release_freed_memory()
        return outputs

    def _admit(self) -> PromptPrefill | None:
        """Begin to read the next prompt, if there are a row and pages: each running row may need one more."""
        while (row := self._next_waiting()) is not None:
            if prefill := self._same_prompt(row):
                self._waiting.remove(row)
                prefill.rows.append(row)
                continue
            adapter = row.request.adapter
            sequence = self.cache.begin(row.tokens, b"" if adapter is None else sha256(adapter.encode()).digest())
            if self._is_being_read(row, sequence.length + PAGE_SIZE):
                self.cache.free(sequence)
                self._postponed.append(row)
                continue
            needed = self.cache.new_pages(sequence, len(row.tokens) - sequence.length)
            if self.running and needed + len(self._running) > self.cache.pool.available:
                self.cache.free(sequence)
                return None
            self.cache.reserve(sequence, len(row.tokens) - sequence.length)
            variant = self._model if self._variants is None else self._variants[adapter]
            sequence.layer_cross_key_values = cross_key_values(variant, row.request.prompt_ids)
            self._waiting.remove(row)
            prefill = PromptPrefill([row], sequence, sequence.length)
            self._prefilling.append(prefill)
            while (other := self._next_waiting()) is not None and self._same_prompt(other) is prefill:
                self._waiting.remove(other)
                prefill.rows.append(other)
            return prefill
        return None

    def _next_waiting(self) -> EngineRow | None:
        """The first request of the group with the fewest rows, if there is a row for it."""
        if not self._waiting or self.running >= self.max_batch:
            return None
        waiting = (row for row in self._waiting if row not in self._postponed)
        if not self._has_groups:
            return next(waiting, None)
        taken = self._rows_by_group()
        return min(waiting, key=lambda row: (taken[row.request.group], row.number), default=None)

    def _rows_by_group(self) -> Counter[Hashable]:
        rows = (*self._running, *(row for prefill in self._prefilling for row in prefill.rows))
        return Counter(row.request.group for row in rows if row.request.group is not None)

    def _make_room(self) -> None:
        """Where all rows are taken, more than three quarters of them by one group, the last of it makes way for another group."""
        if not self._has_groups or not self._waiting or self.running < self.max_batch:
            return
        taken, quarter = self._rows_by_group(), self.max_batch // 4
        group, count = taken.most_common(1)[0] if taken else (None, 0)
        others = any(row.request.group != group and taken[row.request.group] < quarter for row in self._waiting)
        own = [row for row in self._running if row.request.group == group]
        if own and others and count > self.max_batch - quarter:
            self.preemptions += 1
            self._finish([own[-1]])
            self._waiting.appendleft(own[-1])

    def _is_being_read(self, row: EngineRow, length: int) -> bool:
        """Whether this step reads another prompt with the same first `length` tokens, whose pages the next step finds."""
        return self.cache.shares_prefixes and any(
            each.sequence.length < length <= min(each.planned, len(row.tokens) - 1)
            and each.rows[0].request.adapter == row.request.adapter
            and each.tokens[:length] == row.tokens[:length]
            for each in self._prefilling
        )

    def _same_prompt(self, row: EngineRow) -> PromptPrefill | None:
        """A prompt that is being read and that `row` continues too."""
        for prefill in self._prefilling:
            one, other = prefill.rows[0].request, row.request
            same = one.adapter == other.adapter and list(one.prompt_ids) == list(other.prompt_ids)
            if same and prefill.tokens == row.tokens and not other.tokens:
                return prefill
        return None

    def _drop(self, prefill: PromptPrefill) -> None:
        self._prefilling.remove(prefill)
        self.cache.free(prefill.sequence)

    def _start(self, row: EngineRow, sequence: CachedSequence, logits: Tensor) -> StepOutput:
        """The first token of a request whose prompt is read, or the next one of a request that was preempted."""
        row.sequence = sequence
        self._running.append(row)
        output = self._sample(row, logits)
        if output.finish_reason:
            self._finish([row])
        return output

    # ----

    def _sample(self, running: EngineRow, logits: Tensor) -> StepOutput:
        """The next token of one request. A fault in its logits ends this request alone."""
        request = running.request
        try:
            token = running.text.sampler.next(logits)
        except InvalidLogitsError as fault:
            return StepOutput(request, None, "error", error=fault)
        if token in request.stop_ids:
            return StepOutput(request, None, "stop")
        request.tokens.append(token)
        running.tokens.append(token)
        full = len(request.tokens) >= running.limit
        output = StepOutput(request, token, "stop" if running.text.sampler.complete else "length" if full else None)
        if request.logprobs is None:
            return output
        logprobs = log_probabilities(logits)
        return replace(output, logprob=float(logprobs[token]), top_logprobs=top_logprobs(logprobs, request.logprobs))
