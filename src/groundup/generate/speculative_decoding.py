"""Speculative decoding: several proposed tokens are checked in one forward pass, and the text stays that of the plain loop.

A proposer guesses the next tokens: a small draft model (Leviathan et al. 2023), or what followed the last tokens earlier in the
text (prompt lookup, Saxena 2023). One pass of the model gives the logits at all of them. Each token is then sampled from the
model's own distribution, exactly as without proposals; the guess saves a pass where it equals the sample. So the distribution
is that of the model, for every proposer, and with a seed the tokens are those of `stream_tokens`, one by one.

A draft model guesses with the random numbers with which the model will sample: where its distribution is near, its choice is
the same. The share accepted is at least (1 - d) / (1 + d) at total variation distance d (Daliri et al. 2024); sampling by
rejection accepts 1 - d, but its text depends on the draft.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from groundup.artifacts.errors import UserError
from groundup.generate.batch_invariance import batch_invariance
from groundup.generate.detokenizer import StreamDetokenizer
from groundup.generate.generation import (
    GenerativeModel,
    continued_ids,
    encode_prompt,
    next_token_logits,
    remaining_context,
    start_decoding,
)
from groundup.generate.native.decode_step import MAX_ROWS, step_in_c
from groundup.generate.sampling import InvalidLogitsError, SamplingParams
from groundup.generate.sequence_sampler import SequenceSampler
from groundup.model import EncoderDecoder, KVCache
from groundup.model.encoder_decoder import CrossAttentionCache
from groundup.tokenizer import Tokenizer

FIRST_COUNT = 4
MAX_COUNT = 16
"""Proposed tokens at a time: more while all are accepted."""


@runtime_checkable
class Proposer(Protocol):
    """Guesses tokens of one sequence."""

    def propose(self, sampler: SequenceSampler, count: int) -> list[int]:
        """Up to `count` tokens that may follow those of `sampler`."""
        ...


@dataclass
class SpeculationCounts:
    """Tokens proposed and accepted, and forward passes of the model."""

    proposed: int = 0
    accepted: int = 0
    passes: int = 0

    @property
    def acceptance_rate(self) -> float:
        return self.accepted / self.proposed if self.proposed else 0.0


class PromptLookup:
    """Proposes what followed the last tokens where they were last, for texts that repeat their prompt: summaries, code, edits.

    Args:
        prompt_ids: of an encoder-decoder: its source text.
        max_ngram: tokens that must be equal at most; the longest match counts.
    """

    def __init__(self, prompt_ids: Sequence[int], *, max_ngram: int = 3):
        self._text = list(prompt_ids)
        self._prompt_length = len(self._text)
        self._max_ngram = max_ngram
        self._ends: dict[tuple[int, ...], int] = {}  # n-gram to the place after it, the last one
        self._indexed = 0

    def propose(self, sampler: SequenceSampler, count: int) -> list[int]:
        text = self._text
        text += sampler.output_ids[len(text) - self._prompt_length :]
        for end in range(self._indexed + 1, len(text)):  # the n-gram at the very end has nothing after it yet
            for size in range(1, min(self._max_ngram, end) + 1):
                self._ends[tuple(text[end - size : end])] = end
        self._indexed = max(self._indexed, len(text) - 1)
        for size in range(min(self._max_ngram, len(text)), 0, -1):
            if (end := self._ends.get(tuple(text[-size:]))) is not None:
                return text[end : end + count]
        return []


class DraftModel:
    """Proposes what a smaller model with the same tokenizer would write.

    Args:
        prompt_ids: of the sequence.
        max_tokens: of the sequence.
        vocab_size: of the model that checks, which may have more padding.
    """

    def __init__(self, draft: GenerativeModel, prompt_ids: Sequence[int], max_tokens: int, vocab_size: int):
        self._draft = draft
        self._limit = draft.config.cached_context_length
        self._cache, self._start = start_decoding(draft, prompt_ids, min(max_tokens, self._limit))
        self._read: list[int] = []  # by the draft
        self._sure = 0  # of them, tokens of the sequence
        self._vocab_size = vocab_size

    @torch.inference_mode()
    def propose(self, sampler: SequenceSampler, count: int) -> list[int]:
        text = [*self._start, *sampler.output_ids]
        count = min(count, self._limit - len(text), self._cache.max_length - len(text))
        if count < 1:
            return []
        kept = self._sure
        while kept < min(len(self._read), len(text) - 1) and self._read[kept] == text[kept]:  # accepted proposals
            kept += 1
        self._cache.truncate(kept)
        ahead, new = sampler.copy(), text[kept:]
        proposed: list[int] = []
        while len(proposed) < count:
            logits = last_logits(self._draft, new, self._cache, 1)[0]
            more = self._vocab_size - len(logits)
            try:
                token = ahead.next(
                    F.pad(logits, (0, more), value=-torch.inf) if more > 0 else logits[: self._vocab_size]
                )
            except InvalidLogitsError:  # the model decides what is wrong
                break
            proposed.append(token)
            if token in ahead.stop_ids or ahead.complete:
                break
            new = [token]
        self._read, self._sure = [*text, *proposed[:-1]], len(text)
        return proposed


def speculative_tokens(
    model: GenerativeModel,
    prompt_ids: Sequence[int],
    proposer: Proposer,
    *,
    max_tokens: int = 128,
    sampling: SamplingParams = SamplingParams(),  # noqa: B008  (frozen)
    stop_ids: Collection[int] = (),
    counts: SpeculationCounts | None = None,
) -> Iterator[int]:
    """The tokens of `stream_tokens`, in fewer forward passes of `model`. `counts` is updated.

    Raises UserError as `stream_tokens` does, and for models whose state cannot forget rejected tokens.

    >>> proposer = PromptLookup(prompt_ids)
    >>> ids = list(speculative_tokens(model, prompt_ids, proposer, max_tokens=50, stop_ids=tokenizer.stop_ids))
    """
    check_can_speculate(model)
    counts = counts or SpeculationCounts()
    length = min(max_tokens, remaining_context(model, prompt_ids))
    sampler = SequenceSampler(sampling, continued_ids(model, prompt_ids), stop_ids)
    cache, new = start_decoding(model, prompt_ids, length)
    count = FIRST_COUNT
    while len(sampler.output_ids) < length:
        # the prompt is read without proposals, as by the plain loop
        room = length - len(sampler.output_ids) - 1 if sampler.output_ids else 0
        proposed = proposer.propose(sampler, min(count, room)) if room else []
        logits = last_logits(model, [*new, *proposed], cache, len(proposed) + 1)
        counts.passes += 1
        counts.proposed += len(proposed)
        accepted = 0
        for place, guess in enumerate([*proposed, None]):
            token = sampler.next(logits[place])
            counts.accepted += token == guess
            if token in stop_ids:
                return
            yield token
            if sampler.complete:
                return
            if token != guess:
                break
            accepted += 1
        cache.truncate(cache.length - len(proposed) + accepted)
        new = [token]
        if proposed:
            count = min(count + 2, MAX_COUNT) if accepted == len(proposed) else max(count - 1, 1)


def speculative_text(
    model: GenerativeModel,
    tokenizer: Tokenizer,
    text: str,
    draft: GenerativeModel | None,
    *,
    sampling: SamplingParams = SamplingParams(),  # noqa: B008  (frozen)
    max_tokens: int = 128,
    stop: Sequence[str] = (),
    counts: SpeculationCounts | None = None,
) -> Iterator[str]:
    """The chunks of `stream_text`; tokens are proposed by `draft`, which `check_draft` allows, or by prompt lookup."""
    prompt_ids = encode_prompt(model, tokenizer, text)
    remaining_context(model, prompt_ids)
    vocab_size = model.config.vocab_size
    proposer = PromptLookup(prompt_ids) if draft is None else DraftModel(draft, prompt_ids, max_tokens, vocab_size)
    detokenizer = StreamDetokenizer(tokenizer, continued_ids(model, prompt_ids), stop)
    for token in speculative_tokens(
        model, prompt_ids, proposer,
        max_tokens=max_tokens, sampling=sampling, stop_ids=tokenizer.stop_ids, counts=counts,
    ):  # fmt: skip
        if chunk := detokenizer.push(token):
            yield chunk
        if detokenizer.stopped:
            return
    if chunk := detokenizer.finish():
        yield chunk


@torch.inference_mode()
def last_logits(model: GenerativeModel, tokens: Sequence[int], cache: KVCache, count: int) -> Float[Tensor, "T V"]:
    """Logits after each of the last `count` of `tokens`, which follow those in the cache.

    Those of the plain loop, to the last bit, where the step in C knows the model: its rows are independent of each other.
    """
    if count == 1:
        return next_token_logits(model, [tokens], cache)
    ids = torch.tensor([tokens], device=next(model.parameters()).device)
    with batch_invariance(model) as invariant:
        if isinstance(model, EncoderDecoder):
            return model.decode(ids, cast(CrossAttentionCache, cache))[0, -count:]
        max_rows = len(tokens) if invariant else MAX_ROWS
        if (logits := step_in_c(model, ids, cache, max_rows, count)) is not None:
            return logits
        return model.head(model.hidden_states(ids, cache=cache)[:, -count:])[0]


def check_can_speculate(model: GenerativeModel) -> None:
    """Raises UserError for a model with layers whose state cannot forget single tokens."""
    if model.config.has_state:
        raise UserError(
            "speculative decoding of a model with recurrent layers, whose states cannot forget rejected tokens",
            hint="decode without a draft",
        )


def check_draft(model: GenerativeModel, tokenizer: Tokenizer, draft: GenerativeModel, of_draft: Tokenizer) -> None:
    """Raises UserError unless `draft` can propose tokens to `model`: of one architecture, with the same tokenizer."""
    check_can_speculate(model)
    check_can_speculate(draft)
    if draft.config.architecture != model.config.architecture:
        raise UserError(
            f"the draft is a model of architecture {draft.config.architecture}, expected {model.config.architecture}"
        )
    if of_draft.fingerprint != tokenizer.fingerprint:
        raise UserError(
            "the tokenizers of the model and of the draft differ, expected the same vocabulary",
            hint="a smaller model of the same family",
        )
