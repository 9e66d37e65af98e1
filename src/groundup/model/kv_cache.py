"""Key/value caches: the interface that the decoder uses, and a preallocated cache for one batch."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.model.attention_mask import AttentionMask, build_mask
from groundup.recipe import ModelConfig

LayerStates = tuple[Tensor, Tensor] | tuple[None, None]
"""Of a state-space layer: (B W C) and (B H K N)."""


class KeyPages(NamedTuple):
    """Where keys and values of some sequences lie: in pages of equal size, for code that computes addresses itself.

    Attributes:
        owner: what lives as long as the memory.
        size: tokens of a page.
        strides: from page to page, layer to layer, head to head and token to token, in numbers.
        tables: the pages of each sequence, in the order of its tokens.
        lengths: tokens of each sequence so far.
    """

    owner: Any
    keys: Tensor
    values: Tensor
    size: int
    strides: tuple[int, int, int, int]
    tables: list[list[int]]
    lengths: list[int]


@runtime_checkable
class KVCache(Protocol):
    """The interface of a key/value cache; see also generate/paged_kv_cache.py."""

    length: int
    """Tokens in the longest sequence."""

    def positions(self, num_tokens: int) -> Int[Tensor, "*B T"]:
        """Positions of the next tokens: (T), or (B T) where sequences are of different lengths."""
        ...

    def mask(self, num_tokens: int, window: int | None) -> AttentionMask:
        """The mask of the next tokens over the keys, in the order in which `append` returns them."""
        ...

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys (B G T K) and values (B G T Kv) of the next tokens in a layer; returns all of the layer."""
        ...

    def states(self, layer: int) -> LayerStates:
        """What state-space layers keep of the tokens so far: last inputs of the convolution, and states; None at first."""
        ...

    def keep_states(self, layer: int, states: tuple[Tensor, Tensor]) -> None:
        """Store the states after the next tokens."""
        ...

    def advance(self, num_tokens: int) -> None:
        """Called by the model after all layers have appended."""
        ...


def cache_widths(config: ModelConfig) -> tuple[int, int, int]:
    """Heads, width of keys, width of values; latent attention stores latents and rotated keys as keys of one head, and
    state-space layers store none."""
    if (latent := config.latent_attention) is not None:
        return 1, latent.kv_rank + latent.rope_head_dim, 0
    if config.state_space is not None:
        return 0, 0, 0
    return config.num_kv_heads, config.head_dim, config.head_dim


class StaticKVCache:
    """Preallocated keys and values of a batch of sequences of equal length.

    Subclasses may store them in another form: `encode` and `decode`, with `extra_width` more numbers a head and token.
    """

    stored_dtype: torch.dtype | None = None
    """None: that of the model."""
    extra_width = 0

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int,
        max_length: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        heads, key_width, value_width = cache_widths(config)
        shape = (config.num_layers, batch_size, heads, max_length)
        stored = [width and width + self.extra_width for width in (key_width, value_width)]
        dtype = self.stored_dtype or dtype
        self.keys: Shaped[Tensor, "L B G S K"] = torch.zeros(*shape, stored[0], dtype=dtype, device=device)
        self.values: Shaped[Tensor, "L B G S Kv"] = torch.zeros(*shape, stored[1], dtype=dtype, device=device)
        self.layer_states: dict[int, tuple[Tensor, Tensor]] = {}
        self.length = 0
        self.max_length = max_length

    def positions(self, num_tokens: int) -> Int[Tensor, " T"]:
        end = self.length + num_tokens
        if end > self.max_length:
            raise UserError(
                f"cache: {end} tokens, expected at most max_length = {self.max_length}",
                hint="max_length counts prompt and answer: model.new_cache(batch_size, max_length)",
            )
        return torch.arange(self.length, end, device=self.keys.device)

    def pages(self, num_tokens: int) -> KeyPages | None:
        """One page a sequence, with room for so many tokens more; None where they are stored in another form."""
        if type(self) is not StaticKVCache:
            return None
        self.positions(num_tokens)
        batch, length = self.keys.shape[1], self.keys.shape[3]
        strides = tuple(self.keys.stride(dim) for dim in (1, 0, 2, 3))
        tables, lengths = [[row] for row in range(batch)], [self.length] * batch
        return KeyPages(self, self.keys, self.values, length, strides, tables, lengths)  # type: ignore[arg-type]

    def mask(self, num_tokens: int, window: int | None) -> AttentionMask:
        return build_mask(num_tokens, self.length + num_tokens, self.keys.device, causal=True, window=window)

    def append(
        self, layer: int, keys: Float[Tensor, "B G T K"], values: Float[Tensor, "B G T Kv"]
    ) -> tuple[Float[Tensor, "B G S K"], Float[Tensor, "B G S Kv"]]:
        end = self.length + keys.shape[2]
        self.keys[layer, :, :, self.length : end] = self.encode(keys, self.keys.dtype)
        self.values[layer, :, :, self.length : end] = self.encode(values, self.values.dtype)
        return self.decode(self.keys[layer, :, :, :end], keys.dtype), self.decode(
            self.values[layer, :, :, :end], values.dtype
        )

    @staticmethod
    def encode(states: Float[Tensor, "... K"], dtype: torch.dtype) -> Shaped[Tensor, "... stored"]:
        """What is stored of keys or values, in the dtype of the store."""
        return states.to(dtype)  # autocast computes in another

    @staticmethod
    def decode(stored: Shaped[Tensor, "... stored"], dtype: torch.dtype) -> Float[Tensor, "... K"]:
        """Keys or values that are stored; those of another form in `dtype`."""
        return stored

    def states(self, layer: int) -> LayerStates:
        return self.layer_states.get(layer, (None, None))

    def keep_states(self, layer: int, states: tuple[Tensor, Tensor]) -> None:
        self.layer_states[layer] = states

    def advance(self, num_tokens: int) -> None:
        self.length += num_tokens

    def select_rows(self, rows: Int[Tensor, " R"]) -> None:
        """Keep the sequences with these indices, in this order, some more than once: the survivors of a beam search."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]
        self.layer_states = {layer: (first[rows], second[rows]) for layer, (first, second) in self.layer_states.items()}
