"""The key/value cache of a running batch: sequences of different lengths that come and go one by one.

The sequences stand in rows 0 to B - 1 without gaps, so that a step reads one slice of one tensor a layer.
When one leaves, the last takes its row. Room grows by doubling, with the longest sequence.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from groundup.model import StaticKVCache
from groundup.model.attention_mask import AttentionMask

MIN_CAPACITY = 64
"""Tokens that a new row has room for."""


class BatchKVCache:
    """A `groundup.model.Cache` of up to `max_rows` sequences, to which each step appends one token each."""

    def __init__(self, max_rows: int):
        self.max_rows = max_rows
        self.lengths: list[int] = []
        self.length = 0  # of the longest
        self._positions: Int[Tensor, " B"] = torch.zeros(0, dtype=torch.long)
        self._keys: Float[Tensor, "L R G C K"] = torch.zeros(0, max_rows, 0, 0, 0)
        self._values: Float[Tensor, "L R G C K"] = torch.zeros(0, max_rows, 0, 0, 0)

    # ---- who is in the batch

    def add(self, cache: StaticKVCache) -> None:
        """Add the one sequence of `cache` as the last row."""
        row = len(self.lengths)
        if row >= self.max_rows:
            raise ValueError(f"{row} rows, and there is room for no more")
        self._grow(max(cache.length + 1, MIN_CAPACITY), cache.keys)
        self._keys[:, row, :, : cache.length] = cache.keys[:, 0, :, : cache.length]
        self._values[:, row, :, : cache.length] = cache.values[:, 0, :, : cache.length]
        self._set_lengths([*self.lengths, cache.length])

    def remove(self, row: int) -> None:
        """Drop a row; the last row takes its place."""
        last = len(self.lengths) - 1
        if row != last:
            used = self.lengths[last]
            self._keys[:, row, :, :used] = self._keys[:, last, :, :used]
            self._values[:, row, :, :used] = self._values[:, last, :, :used]
        lengths = list(self.lengths)
        lengths[row] = lengths[last]
        self._set_lengths(lengths[:last])

    # ---- what the model asks for, see groundup.model.Cache

    def positions(self, num_tokens: int) -> Int[Tensor, "B 1"]:
        if num_tokens != 1:
            raise ValueError(
                f"{num_tokens} tokens a row, expected 1: prompts are read in a cache of their own"
            )
        self._grow(self.length + 1, self._keys)
        return self._positions[:, None]

    def mask(self, num_tokens: int, window: int | None) -> AttentionMask:
        keys = torch.arange(self.length + num_tokens, device=self._positions.device)
        own = self._positions[:, None, None, None]
        seen = keys <= own
        if window is not None:
            seen &= keys > own - window
        return AttentionMask(dense=seen)

    def append(
        self, layer: int, keys: Float[Tensor, "B G 1 K"], values: Float[Tensor, "B G 1 K"]
    ) -> tuple[Float[Tensor, "B G S K"], Float[Tensor, "B G S K"]]:
        batch, end = len(self.lengths), self.length + 1
        rows = torch.arange(batch, device=keys.device)
        self._keys[layer, rows, :, self._positions] = keys[:, :, 0]
        self._values[layer, rows, :, self._positions] = values[:, :, 0]
        return self._keys[layer, :batch, :, :end], self._values[layer, :batch, :, :end]

    def advance(self, num_tokens: int) -> None:
        self._set_lengths([length + num_tokens for length in self.lengths])

    # ----

    def _set_lengths(self, lengths: list[int]) -> None:
        self.lengths = lengths
        self.length = max(lengths, default=0)
        self._positions = torch.tensor(lengths, dtype=torch.long, device=self._keys.device)

    def _grow(self, needed: int, like: Float[Tensor, "L R G C K"]) -> None:
        capacity = self._keys.shape[3]
        if needed <= capacity:
            return
        layers, _, heads, _, width = like.shape
        bigger = (layers, self.max_rows, heads, max(needed, 2 * capacity), width)
        for name in ("_keys", "_values"):
            old: Tensor = getattr(self, name)
            new = torch.zeros(bigger, dtype=like.dtype, device=like.device)
            if capacity:
                new[:, :, :, :capacity] = old
            setattr(self, name, new)
