"""Batches with masked tokens, for encoders and encoder-decoders."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from groundup.evaluate.masked_lm import MaskFunction
from groundup.train.token_batches import TokenBatches


class MaskedBatches:
    """Token batches with masking. The mask of a sequence depends on the seed, the step and its index in the global batch, so it
    is the same on any number of devices. `batches` are of concatenated documents (plan/checks/stage_support.py).
    """

    def __init__(self, batches: TokenBatches, mask_tokens: MaskFunction, seed: int, rank: int):
        self.batches, self.mask_tokens, self.seed, self.rank = batches, mask_tokens, seed, rank

    def batch(self, step: int) -> dict[str, Tensor]:
        """`tokens` with masked ones replaced, and `labels` at the same positions, int64."""
        rows = self.batches.batch(step)["tokens"]
        first = self.rank * len(rows)
        parts = [self.mask_tokens(row[None], self._generator(step, first + index)) for index, row in enumerate(rows)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def step_stats(self, step: int) -> dict[str, Any]:
        return self.batches.step_stats(step)

    def _generator(self, step: int, row: int) -> torch.Generator:
        state = np.random.SeedSequence((self.seed, step, row)).generate_state(1)
        return torch.Generator().manual_seed(int(state[0]))
