"""A smaller model that proposes tokens to a larger one with the same tokenizer, for all texts of an engine in one batch.

It guesses with the random numbers with which the model will sample: where its distribution is near, its choice is the same.
The share accepted is at least (1 - d) / (1 + d) at total variation distance d (Daliri et al. 2024); sampling by rejection
accepts 1 - d, but its text depends on the draft.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from groundup.artifacts.errors import UserError
from groundup.generate.generation import GenerativeModel, cross_key_values, max_prompt_tokens
from groundup.generate.kv_cache_budget import new_paged_cache
from groundup.generate.paged_kv_cache import CachedSequence
from groundup.generate.ragged_batch import NewTokens, ragged_logits
from groundup.generate.sampling import InvalidLogitsError
from groundup.generate.sequence_sampler import SequenceSampler
from groundup.generate.speculative_decoding import OpenText, SpeculationCounts, check_can_speculate
from groundup.tokenizer import Tokenizer

DRAFT_CHUNK = 256
"""Tokens of a prompt that are read at a time, before anything is proposed."""


@dataclass(eq=False)
class _DraftText:
    """What the draft has read of one text: `sure` tokens of the text itself, then its own proposals."""

    sequence: CachedSequence
    read: list[int] = field(default_factory=list)
    sure: int = 0


@dataclass(eq=False)
class _Proposal:
    """Tokens proposed to one text, so far."""

    state: _DraftText
    sampler: SequenceSampler
    count: int
    new: list[int]
    tokens: list[int] = field(default_factory=list)


class DraftModel:
    """Proposes what a smaller model would write; see `check_draft`.

    Args:
        vocab_size: of the model that checks, which may have more padding.
        max_batch: texts at a time.
        cache_memory: bytes for the draft's keys and values; default: see `new_paged_cache`.

    >>> engine = BatchingEngine(model, proposer=DraftModel(draft, model.config.vocab_size))
    """

    def __init__(self, draft: GenerativeModel, vocab_size: int, *, max_batch: int = 8, cache_memory: int | None = None):
        check_can_speculate(draft)
        self.counts = SpeculationCounts()
        self._draft, self._vocab_size = draft, vocab_size
        self._limit = draft.config.cached_context_length
        self._cache = new_paged_cache(draft, max_batch, cache_memory)
        self._states: dict[OpenText, _DraftText] = {}

    def forget(self, text: OpenText) -> None:
        if (state := self._states.pop(text, None)) is not None:
            self._cache.free(state.sequence)

    @torch.inference_mode()
    def propose(self, texts: Sequence[OpenText], counts: Sequence[int]) -> list[list[int]]:
        """Up to `counts[i]` tokens that may follow each text; none while the draft reads a long prompt."""
        found = [self._begin(text, count) for text, count in zip(texts, counts, strict=True)]
        going = [each for each in found if each is not None]
        while going:
            parts = [NewTokens(each.state.sequence, each.new) for each in going]
            logits = ragged_logits(self._draft, self._cache, parts)
            going = [each for each, (row,) in zip(going, logits, strict=True) if self._add(each, row)]
        return [[] if each is None else each.tokens for each in found]

    def _begin(self, text: OpenText, count: int) -> _Proposal | None:
        """Read on where the text left the proposals; None: there is no room."""
        if count < 1 or len(text.prompt_ids) > max_prompt_tokens(self._draft.config):
            return None
        ids = [*text.start_ids, *text.sampler.output_ids]
        count = min(count, self._limit - len(ids))
        state = self._states.get(text)
        if state is None:
            sequence = self._cache.begin(ids)
            sequence.layer_cross_key_values = cross_key_values(self._draft, text.prompt_ids)
            known = sequence.length
            state = self._states[text] = _DraftText(sequence, ids[:known], known)
        kept = state.sure
        while kept < min(len(state.read), len(ids) - 1) and state.read[kept] == ids[kept]:  # accepted proposals
            kept += 1
        state.sequence.length = kept
        new = ids[kept : kept + DRAFT_CHUNK]
        behind = kept + len(new) < len(ids)
        if count < 1 or not self._cache.reserve(state.sequence, len(new) + (0 if behind else count)):
            return None
        state.read, state.sure = ids[: kept + len(new)], kept + len(new)
        return _Proposal(state, text.sampler.copy(), 0 if behind else count, new)

    def _add(self, proposal: _Proposal, logits: Tensor) -> bool:
        """Sample the next token of a proposal; whether it goes on."""
        state, ahead = proposal.state, proposal.sampler
        if not proposal.tokens:
            self._cache.remember(state.sequence, state.read)
        if not proposal.count:
            return False
        more = self._vocab_size - len(logits)
        try:
            token = ahead.next(F.pad(logits, (0, more), value=-torch.inf) if more > 0 else logits[: self._vocab_size])
        except InvalidLogitsError:  # the model decides what is wrong
            return False
        proposal.tokens.append(token)
        if len(proposal.tokens) == proposal.count or token in ahead.stop_ids or ahead.complete:
            return False
        state.read.append(token)
        proposal.new = [token]
        return True


def check_draft(model: nn.Module, tokenizer: Tokenizer, draft: nn.Module, of_draft: Tokenizer) -> None:
    """Raises UserError unless `draft` can propose tokens to `model`: of one architecture, with the same tokenizer."""
    check_can_speculate(model)
    check_can_speculate(draft)
    if draft.config.architecture != model.config.architecture:  # type: ignore[union-attr]
        raise UserError(
            f"the draft is a model of architecture {draft.config.architecture}, "  # type: ignore[union-attr]
            f"expected {model.config.architecture}"  # type: ignore[union-attr]
        )
    if of_draft.fingerprint != tokenizer.fingerprint:
        raise UserError(
            "the tokenizers of the model and of the draft differ, expected the same vocabulary",
            hint="a smaller model of the same family",
        )
