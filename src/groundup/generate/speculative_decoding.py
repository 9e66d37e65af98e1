"""Speculative decoding: several proposed tokens are checked in one forward pass, and the text stays that of the plain loop.

A proposer guesses the next tokens: a small draft model (Leviathan et al. 2023; draft_model.py), or what followed the last tokens
earlier in the text (prompt lookup, Saxena 2023). One pass of the model gives the logits at all of them. Each token is then
sampled from the model's own distribution, exactly as without proposals; the guess saves a pass where it equals the sample. So
the distribution is that of the model, for every proposer, and with a seed the tokens are those of `stream_tokens`, one by one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable
from weakref import WeakKeyDictionary

from torch import nn

from groundup.artifacts.errors import UserError
from groundup.generate.sequence_sampler import SequenceSampler

FIRST_COUNT = 4
MAX_COUNT = 16
"""Proposed tokens at a time: more while all are accepted."""


@dataclass(eq=False)
class OpenText:
    """A text in progress.

    Attributes:
        prompt_ids: of an encoder-decoder: its source text.
        start_ids: the tokens that the decoder reads first: those of the prompt, or of its configuration.
        sampler: with the tokens so far.
        count: tokens to propose next.
    """

    prompt_ids: Sequence[int]
    start_ids: Sequence[int]
    sampler: SequenceSampler
    count: int = FIRST_COUNT

    def adapt(self, proposed: int, accepted: int) -> None:
        """Set `count` by what became of the last proposals."""
        if proposed:
            self.count = min(self.count + 2, MAX_COUNT) if accepted == proposed else max(self.count - 1, 1)


@dataclass
class SpeculationCounts:
    """Tokens proposed and accepted, and forward passes over running texts."""

    proposed: int = 0
    accepted: int = 0
    passes: int = 0

    @property
    def acceptance_rate(self) -> float:
        return self.accepted / self.proposed if self.proposed else 0.0


@runtime_checkable
class Proposer(Protocol):
    """Guesses tokens of the texts of one engine, which updates `counts`."""

    counts: SpeculationCounts

    def propose(self, texts: Sequence[OpenText], counts: Sequence[int]) -> list[list[int]]:
        """Up to `counts[i]` tokens that may follow each text."""
        ...

    def forget(self, text: OpenText) -> None:
        """Drop what is kept of a text."""
        ...


class PromptLookup:
    """Proposes what followed the last tokens where they were last, for texts that repeat their prompt: summaries, code, edits.

    Args:
        max_ngram: tokens that must be equal at most; the longest match counts.
    """

    def __init__(self, *, max_ngram: int = 3):
        self.counts = SpeculationCounts()
        self._max_ngram = max_ngram
        self._indexes: WeakKeyDictionary[OpenText, _NgramIndex] = WeakKeyDictionary()

    def propose(self, texts: Sequence[OpenText], counts: Sequence[int]) -> list[list[int]]:
        found = []
        for text, count in zip(texts, counts, strict=True):
            if text not in self._indexes:
                self._indexes[text] = _NgramIndex(list(text.prompt_ids), len(text.prompt_ids))
            found.append(self._indexes[text].following(text.sampler.output_ids, count, self._max_ngram))
        return found

    def forget(self, text: OpenText) -> None:
        self._indexes.pop(text, None)


@dataclass
class _NgramIndex:
    """The n-grams of one text, each with the place after the last one."""

    text: list[int]
    prompt_length: int
    ends: dict[tuple[int, ...], int] = field(default_factory=dict)
    indexed: int = 0

    def following(self, output_ids: Sequence[int], count: int, max_ngram: int) -> list[int]:
        """What followed the last tokens."""
        text = self.text
        text += output_ids[len(text) - self.prompt_length :]
        for end in range(self.indexed + 1, len(text)):  # the n-gram at the very end has nothing after it yet
            for size in range(1, min(max_ngram, end) + 1):
                self.ends[tuple(text[end - size : end])] = end
        self.indexed = max(self.indexed, len(text) - 1)
        for size in range(min(max_ngram, len(text)), 0, -1):
            if (end := self.ends.get(tuple(text[-size:]))) is not None:
                return text[end : end + count]
        return []


def check_can_speculate(model: nn.Module) -> None:
    """Raises UserError for a model with layers whose state cannot forget single tokens."""
    if getattr(model.config, "has_state", False):
        raise UserError(
            "speculative decoding of a model with recurrent layers, whose states cannot forget rejected tokens",
            hint="decode without a draft",
        )
