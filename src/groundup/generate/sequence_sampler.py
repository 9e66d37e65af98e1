"""The sampling of one sequence: its random generator, the tokens so far, and its place in a grammar."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.generate.sampling import InvalidLogitsError, NoTokenFitsError, SamplingParams, sample_token


class SequenceSampler:
    """Chooses the tokens of one sequence, one after the other.

    Args:
        prompt_ids: tokens that the sequence continues; the repetition penalty counts them.
        stop_ids: tokens that end the sequence; excluded before `min_tokens`, and inside of a grammar.

    Attributes:
        output_ids: the tokens so far, without the stop token.
        generator: of the random draws, one for each token.
    """

    def __init__(self, sampling: SamplingParams, prompt_ids: Sequence[int] = (), stop_ids: Collection[int] = ()):
        self.sampling = sampling
        self.output_ids: list[int] = []
        self.generator: torch.Generator = sampling.generator()
        self._prompt_ids = prompt_ids
        self.stop_ids = stop_ids
        self._grammar = None if sampling.grammar is None else sampling.grammar.start()

    def next(self, logits: Tensor) -> int:
        """The next token, by logits (V); unless it is a stop token, the sequence goes on after it.

        Raises InvalidLogitsError as `sample_token` does, and NoTokenFitsError.
        """
        try:
            allowed = None if self._grammar is None else self._grammar.allowed(logits.shape[-1], self.stop_ids)
            token = sample_token(
                logits, self.sampling, self.generator,
                prompt_ids=self._prompt_ids, output_ids=self.output_ids, stop_ids=self.stop_ids, allowed=allowed,
            )  # fmt: skip
            if token not in self.stop_ids:
                self.output_ids.append(token)
                if self._grammar is not None:
                    self._grammar.accept(token)
        except InvalidLogitsError:
            raise
        except UserError as error:
            raise NoTokenFitsError(error.message, hint=error.hint) from None
        return token

    def copy(self) -> "SequenceSampler":
        """A sampler that goes on from here with the same random numbers."""
        other = SequenceSampler(self.sampling, self._prompt_ids, self.stop_ids)
        other.output_ids = list(self.output_ids)
        other.generator.set_state(self.generator.get_state())
        other._grammar = self._grammar and self._grammar.copy()
        return other

    @property
    def complete(self) -> bool:
        """The text is one of the grammar's, and nothing can follow."""
        return self._grammar is not None and self._grammar.complete
