"""Key/value cache of a running batch: sequences of different lengths are added and removed one by one.

The sequences occupy rows 0 to B - 1 without gaps, so that a step reads one slice of one tensor per layer. The last row
moves into the row of a removed sequence. The capacity doubles when the longest sequence exceeds it.
"""

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F

from groundup.model import EncoderDecoderCache, StaticKVCache
from groundup.model.attention import CrossKeyValues
from groundup.model.attention_mask import AttentionMask
from groundup.model.kv_cache import LayerStates

MIN_CAPACITY = 64
"""Initial capacity in tokens."""


class BatchKVCache:
    """A `groundup.model.KVCache` of up to `max_rows` sequences; each step appends one token to every sequence."""

    def __init__(self, max_rows: int):
        self.max_rows = max_rows
        self.lengths: list[int] = []
        self.length = 0  # of the longest
        self._positions: Int[Tensor, " B"] = torch.zeros(0, dtype=torch.long)
        self._keys: Shaped[Tensor, "L R G C K"] = torch.zeros(0, max_rows, 0, 0, 0)
        self._values: Shaped[Tensor, "L R G C Kv"] = torch.zeros(0, max_rows, 0, 0, 0)
        self._form: type[StaticKVCache] = StaticKVCache  # of what is stored
        self._states: dict[tuple[int, int], Tensor] = {}  # by layer and part, one row each

    def add(self, cache: StaticKVCache) -> None:
        """Add the one sequence of `cache` as the last row."""
        row = len(self.lengths)
        self._form = type(cache)
        if row >= self.max_rows:
            raise ValueError(f"all {self.max_rows} rows are in use")
        self._grow(max(cache.length + 1, MIN_CAPACITY), cache.keys, cache.values)
        self._keys[:, row, :, : cache.length] = cache.keys[:, 0, :, : cache.length]
        self._values[:, row, :, : cache.length] = cache.values[:, 0, :, : cache.length]
        for layer, states in cache.layer_states.items():
            for part, state in enumerate(states):
                key = (layer, part)
                if key not in self._states:
                    self._states[key] = state.new_zeros(self.max_rows, *state.shape[1:])
                self._states[key][row] = state[0]
        self._set_lengths([*self.lengths, cache.length])

    def remove(self, row: int) -> None:
        """Remove a row; the last row moves to its index."""
        last = len(self.lengths) - 1
        if row != last:
            used = self.lengths[last]
            self._keys[:, row, :, :used] = self._keys[:, last, :, :used]
            self._values[:, row, :, :used] = self._values[:, last, :, :used]
            for states in self._states.values():
                states[row] = states[last]
        lengths = list(self.lengths)
        lengths[row] = lengths[last]
        self._set_lengths(lengths[:last])

    # ---- interface of groundup.model.KVCache

    def positions(self, num_tokens: int) -> Int[Tensor, "B 1"]:
        if num_tokens != 1:
            raise ValueError(f"{num_tokens} tokens per row, expected 1: prompts are prefilled in another cache")
        self._grow(self.length + 1, self._keys, self._values)
        return self._positions[:, None]

    def mask(self, num_tokens: int, window: int | None) -> AttentionMask:
        keys = torch.arange(self.length + num_tokens, device=self._positions.device)
        queries = self._positions[:, None, None, None]
        visible = keys <= queries
        if window is not None:
            visible &= keys > queries - window
        return AttentionMask(dense=visible)

    def append(
        self, layer: int, keys: Float[Tensor, "B G 1 K"], values: Float[Tensor, "B G 1 Kv"]
    ) -> tuple[Float[Tensor, "B G S K"], Float[Tensor, "B G S Kv"]]:
        batch, end = len(self.lengths), self.length + 1
        rows = torch.arange(batch, device=keys.device)
        form = self._form
        self._keys[layer, rows, :, self._positions] = form.encode(keys[:, :, 0], self._keys.dtype)
        self._values[layer, rows, :, self._positions] = form.encode(values[:, :, 0], self._values.dtype)
        stored = self._keys[layer, :batch, :, :end], self._values[layer, :batch, :, :end]
        return form.decode(stored[0], keys.dtype), form.decode(stored[1], values.dtype)

    def states(self, layer: int) -> LayerStates:
        rows = len(self.lengths)
        return self._states[layer, 0][:rows], self._states[layer, 1][:rows]

    def keep_states(self, layer: int, states: tuple[Tensor, Tensor]) -> None:
        for part, state in enumerate(states):
            self._states[layer, part][: len(state)] = state

    def advance(self, num_tokens: int) -> None:
        self._set_lengths([length + num_tokens for length in self.lengths])

    # ----

    def _set_lengths(self, lengths: list[int]) -> None:
        self.lengths = lengths
        self.length = max(lengths, default=0)
        self._positions = torch.tensor(lengths, dtype=torch.long, device=self._keys.device)

    def _grow(self, needed: int, keys: Shaped[Tensor, "L R G C K"], values: Shaped[Tensor, "L R G C Kv"]) -> None:
        """Make room for `needed` tokens in tensors like `keys` and `values`."""
        capacity = self._keys.shape[3]
        if needed <= capacity:
            return
        for name, like in (("_keys", keys), ("_values", values)):
            old: Tensor = getattr(self, name)
            layers, _, heads, _, width = like.shape
            shape = (layers, self.max_rows, heads, max(needed, 2 * capacity), width)
            new = torch.zeros(shape, dtype=like.dtype, device=like.device)
            if capacity:
                new[:, :, :, :capacity] = old
            setattr(self, name, new)


class CrossAttentionBatchCache(BatchKVCache):
    """The same for an encoder-decoder: also the keys and values of each row's source text, padded to the longest."""

    def __init__(self, max_rows: int):
        super().__init__(max_rows)
        self.layer_cross_key_values: list[CrossKeyValues] = []
        self._sources: list[list[CrossKeyValues]] = []  # of each row, without padding

    def add(self, cache: EncoderDecoderCache) -> None:  # type: ignore[override]
        super().add(cache)
        self._sources.append(cache.layer_cross_key_values)
        self._pad_sources()

    def remove(self, row: int) -> None:
        super().remove(row)
        self._sources[row] = self._sources[-1]
        self._sources.pop()
        self._pad_sources()

    def _pad_sources(self) -> None:
        lengths = [layers[0].keys.shape[2] for layers in self._sources]
        longest = max(lengths, default=0)
        device = self._positions.device
        real = torch.arange(longest, device=device) < torch.tensor(lengths, device=device)[:, None]
        mask = AttentionMask(dense=real[:, None, None])

        def pad(rows: list[Tensor]) -> Tensor:
            return torch.cat([F.pad(row, (0, 0, 0, longest - row.shape[2])) for row in rows])

        self.layer_cross_key_values = [
            CrossKeyValues(pad([each.keys for each in layer]), pad([each.values for each in layer]), mask)
            for layer in zip(*self._sources, strict=True)
        ]
