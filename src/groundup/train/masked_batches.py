"""Batches with hidden tokens, for the architectures that read a text as a whole."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.evaluate.masked_lm import MaskFunction
from groundup.train.token_batches import TokenBatches


class MaskedBatches:
    """Other batches, with tokens hidden. What is hidden of a sequence follows from the seed, the step and the sequence's
    place in the whole batch, so it is the same on any number of devices.

    Raises UserError for packed documents: hiding would take padding for text, and see across documents.
    """

    def __init__(
        self, batches: TokenBatches, mask_tokens: MaskFunction, seed: int, rank: int, *, concat: bool
    ):
        if not concat:
            raise UserError(
                "train.packing and train.document_mask are for decoders: hidden tokens are drawn from rows of text",
                hint="leave both as they are by default",
            )
        self.batches, self.mask_tokens, self.seed, self.rank = batches, mask_tokens, seed, rank

    def batch(self, step: int) -> dict[str, Tensor]:
        """`tokens` with what is hidden replaced, and `labels` to be predicted in place, int64."""
        rows = self.batches.batch(step)["tokens"]
        first = self.rank * len(rows)
        parts = [
            self.mask_tokens(row[None], self._generator(step, first + place))
            for place, row in enumerate(rows)
        ]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def step_stats(self, step: int) -> dict[str, Any]:
        return self.batches.step_stats(step)

    def _generator(self, step: int, row: int) -> torch.Generator:
        words = np.random.SeedSequence((self.seed, step, row)).generate_state(1)
        return torch.Generator().manual_seed(int(words[0]))
