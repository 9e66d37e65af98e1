"""Paged key/value cache (Kwon et al. 2023): sequences of any length in pages of one memory, without gaps between them.

A sequence has a table of pages, which need not be neighbours. Equal beginnings of sequences are stored once: full pages are found
by their content, and copies of a sequence share all pages; a shared page is copied before it is written to. What is not one
vector a token has no pages: states of state-space layers, and the cross-attention's keys and values, stay with the sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F

from groundup.generate.page_memory import PageMemory
from groundup.generate.page_pool import NULL_PAGE, PagePool, page_key
from groundup.model import StaticKVCache
from groundup.model.attention import CrossKeyValues
from groundup.model.attention_mask import AttentionMask, build_mask
from groundup.model.kv_cache import KeyPages, LayerStates, cache_widths
from groundup.recipe import ModelConfig

PAGE_SIZE = 16
"""Tokens a page: small enough that half a page a sequence is no loss, large enough that tables are short."""


@dataclass(eq=False)
class CachedSequence:
    """What the cache knows of one text.

    Attributes:
        key: of its last page that has one.
        pages: its table; NULL_PAGE where all windows have passed.
        num_keyed: pages with keys.
        layer_states: of state-space layers, one row each.
        layer_cross_key_values: of an encoder-decoder, for the source text.
    """

    key: bytes
    pages: list[int] = field(default_factory=list)
    length: int = 0
    num_keyed: int = 0
    layer_states: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    layer_cross_key_values: list[CrossKeyValues] = field(default_factory=list)


class PagedKVCache:
    """Keys and values of many sequences in pages.

    Args:
        form: `encode`, `decode` and widths of what is stored; `StaticKVCache`: as computed.
        num_pages: the budget; see `cache_pages`.
        max_idle: pages kept for later texts with the same beginning.
    """

    def __init__(
        self,
        config: ModelConfig,
        form: type[StaticKVCache],
        num_pages: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        max_idle: int | None = None,
    ):
        self.form, self.device = form, device
        self.pool = PagePool(num_pages, PAGE_SIZE, num_pages if max_idle is None else max_idle)
        self.shares_prefixes = config.architecture == "decoder" and not config.has_state
        self.layer_index = _paged_layers(config)
        has_global = any(config.layer_types[layer] == "global" for layer in self.layer_index)
        self._window = None if has_global else config.sliding_window
        heads, *widths = cache_widths(config)
        layers, stored = len(self.layer_index), form.stored_dtype or dtype
        self._memories = [
            PageMemory(num_pages + 1, (layers, PAGE_SIZE, heads, width and width + form.extra_width), stored, device)
            for width in widths
        ]
        self._cross: tuple[list[CachedSequence], list[CrossKeyValues]] = ([], [])  # padded, of the last batch

    @property
    def keys(self) -> Shaped[Tensor, "P L page G stored"]:
        return self._memories[0].pages

    @property
    def values(self) -> Shaped[Tensor, "P L page G stored"]:
        return self._memories[1].pages

    def begin(self, tokens: Sequence[int], seed: bytes = b"") -> CachedSequence:
        """A sequence with the pages that are known of the beginning of `tokens`, all but the last token at most.

        seed: of another model, such as one with an adapter, whose keys differ.
        """
        sequence = CachedSequence(seed)
        if self.shares_prefixes:
            for end in range(PAGE_SIZE, len(tokens), PAGE_SIZE):
                key = page_key(sequence.key, tokens[end - PAGE_SIZE : end])
                if (page := self.pool.find(key)) is None:
                    break
                self.pool.share(page)
                sequence.pages.append(page)
                sequence.key, sequence.length, sequence.num_keyed = key, end, sequence.num_keyed + 1
        return sequence

    def new_pages(self, sequence: CachedSequence, num_tokens: int) -> int:
        """Pages that `reserve` would take."""
        copied = sequence.length < self.pool.page_size * len(sequence.pages) and self.pool.is_shared(sequence.pages[-1])
        return max(self.pool.pages_for(sequence.length + num_tokens) - len(sequence.pages), 0) + copied

    def reserve(self, sequence: CachedSequence, num_tokens: int) -> bool:
        """Make room for the next tokens of a sequence; a partly filled page that is shared is copied. False: too few pages."""
        if self.new_pages(sequence, num_tokens) > self.pool.available:
            return False
        if sequence.length < self.pool.page_size * len(sequence.pages) and self.pool.is_shared(sequence.pages[-1]):
            shared, own = sequence.pages[-1], self._take()
            for memory in self._memories:
                memory.pages[own] = memory.pages[shared]
            self.pool.release([shared])
            sequence.pages[-1] = own
        while len(sequence.pages) * self.pool.page_size < sequence.length + num_tokens:
            sequence.pages.append(self._take())
        return True

    def fork(self, sequence: CachedSequence) -> CachedSequence:
        """Another sequence of the same text, which shares its pages."""
        for page in sequence.pages:
            if page != NULL_PAGE:
                self.pool.share(page)
        return CachedSequence(
            sequence.key, list(sequence.pages), sequence.length, sequence.num_keyed,
            dict(sequence.layer_states), list(sequence.layer_cross_key_values),
        )  # fmt: skip

    def remember(self, sequence: CachedSequence, tokens: Sequence[int]) -> None:
        """Give the full pages of a sequence with these tokens their keys, so that later texts find them.

        Pages that no later token of the sequence attends to are given back.
        """
        if self.shares_prefixes:
            for index in range(sequence.num_keyed, sequence.length // PAGE_SIZE):
                sequence.key = page_key(sequence.key, tokens[index * PAGE_SIZE : (index + 1) * PAGE_SIZE])
                self.pool.register(sequence.pages[index], sequence.key)
                sequence.num_keyed = index + 1
        if self._window is not None:
            passed = max(sequence.length - self._window + 1, 0) // PAGE_SIZE
            self._give_back(self.pool.release(page for page in sequence.pages[:passed] if page != NULL_PAGE))
            sequence.pages[:passed] = [NULL_PAGE] * passed

    def free(self, sequence: CachedSequence) -> None:
        """Give back the pages of a sequence, which is not to be used again."""
        held = [page for page in reversed(sequence.pages) if page != NULL_PAGE]
        self._give_back(self.pool.release(held))  # the end of a text is forgotten before its beginning
        sequence.pages = []

    def forget_idle(self) -> None:
        """Drop what is kept for later texts."""
        self._give_back(self.pool.forget_idle())

    def batch(self, sequences: Sequence[CachedSequence]) -> "PagedBatch":
        """The cache of a forward pass over these sequences, in this order; room must be reserved."""
        return PagedBatch(self, sequences)

    def cross_key_values(self, sequences: list[CachedSequence]) -> list[CrossKeyValues]:
        """The cross-attention's keys and values of each layer, padded to the longest source text."""
        if self._cross[0] != sequences:
            self._cross = sequences, _padded([each.layer_cross_key_values for each in sequences])
        return self._cross[1]

    def _take(self) -> int:
        page = self.pool.take()
        for memory in self._memories:
            memory.clear(page)
        return page

    def _give_back(self, pages: list[int]) -> None:
        for memory in self._memories:
            memory.give_back(pages)


class PagedBatch:
    """A `groundup.model.KVCache` of some sequences of a paged cache, for one forward pass."""

    def __init__(self, cache: PagedKVCache, sequences: Sequence[CachedSequence]):
        self._cache, self.sequences = cache, list(sequences)
        self._lengths = [each.length for each in sequences]
        self.length = max(self._lengths)
        self._positions: Int[Tensor, "B T"] = torch.empty(0)
        self._table: Int[Tensor, "B N"] = torch.empty(0)
        self._slots: tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]] = (self._table, self._table)

    def positions(self, num_tokens: int) -> Int[Tensor, "*B T"]:
        device = self._cache.device
        starts = torch.tensor(self._lengths, device=device)
        positions = starts[:, None] + torch.arange(num_tokens, device=device)
        num_pages = self._cache.pool.pages_for(self.length + num_tokens)
        rows = [each.pages[:num_pages] for each in self.sequences]
        self._table = torch.tensor([[*row, *[NULL_PAGE] * (num_pages - len(row))] for row in rows], device=device)
        self._slots = self._table.gather(1, positions // PAGE_SIZE), positions % PAGE_SIZE
        self._positions = positions[0] if len(rows) == 1 else positions
        return self._positions

    def pages(self, num_tokens: int) -> KeyPages | None:
        """Where the sequences lie, with the pages that so many tokens more need; None where they are stored in another form."""
        cache = self._cache
        if cache.form is not StaticKVCache:
            return None
        strides = tuple(cache.keys.stride(dim) for dim in (0, 1, 3, 2))
        tables = [each.pages for each in self.sequences]
        return KeyPages(cache, cache.keys, cache.values, PAGE_SIZE, strides, tables, list(self._lengths))  # type: ignore[arg-type]

    def mask(self, num_tokens: int, window: int | None) -> AttentionMask:
        if len(self.sequences) == 1:
            return build_mask(num_tokens, self.length + num_tokens, self._cache.device, causal=True, window=window)
        keys = torch.arange(self.length + num_tokens, device=self._cache.device)
        queries = self._positions[:, None, :, None]
        visible = keys <= queries
        if window is not None:
            visible &= keys > queries - window
        return AttentionMask(dense=visible)

    def append(
        self, layer: int, keys: Float[Tensor, "B G T K"], values: Float[Tensor, "B G T Kv"]
    ) -> tuple[Float[Tensor, "B G S K"], Float[Tensor, "B G S Kv"]]:
        index, length = self._cache.layer_index[layer], self.length + keys.shape[2]
        self._write(self._cache.keys, index, keys)
        self._write(self._cache.values, index, values)
        return self._read(self._cache.keys, index, length, keys), self._read(self._cache.values, index, length, values)

    def _write(self, pages: Shaped[Tensor, "P L page G stored"], index: int, states: Float[Tensor, "B G T K"]) -> None:
        """Store one vector a head and token. Pages are rows of a matrix here and below: that copies whole rows."""
        num_layers = pages.shape[1]
        page, offset = self._slots
        slots = (page * num_layers + index) * PAGE_SIZE + offset
        stored = self._cache.form.encode(states.transpose(1, 2), pages.dtype)
        pages.flatten(0, 2).index_copy_(0, slots.flatten(), stored.flatten(0, 1))

    def _read(
        self, pages: Shaped[Tensor, "P L page G stored"], index: int, length: int, like: Tensor
    ) -> Float[Tensor, "B G S K"]:
        """All keys or values of a layer, padded at the end to the longest sequence."""
        num_rows, num_pages = self._table.shape
        chosen = (self._table * pages.shape[1] + index).flatten()
        found = pages.flatten(0, 1).flatten(1).index_select(0, chosen)
        found = found.view(num_rows, num_pages * PAGE_SIZE, *pages.shape[3:])
        return self._cache.form.decode(found[:, :length].transpose(1, 2), like.dtype)

    def states(self, layer: int) -> LayerStates:
        rows = [each.layer_states.get(layer) for each in self.sequences]
        if rows[0] is None:
            return None, None
        if len(rows) == 1:
            return rows[0]
        return torch.cat([row[0] for row in rows if row]), torch.cat([row[1] for row in rows if row])

    def keep_states(self, layer: int, states: tuple[Tensor, Tensor]) -> None:
        for row, sequence in enumerate(self.sequences):
            sequence.layer_states[layer] = states[0][row : row + 1], states[1][row : row + 1]

    @property
    def layer_cross_key_values(self) -> list[CrossKeyValues]:
        return self._cache.cross_key_values(self.sequences)

    def advance(self, num_tokens: int) -> None:
        for sequence in self.sequences:
            sequence.length += num_tokens


def page_bytes(config: ModelConfig, form: type[StaticKVCache], dtype: torch.dtype) -> int:
    """Bytes of one page: keys and values of `PAGE_SIZE` tokens in all layers."""
    heads, *widths = cache_widths(config)
    width = sum(width and width + form.extra_width for width in widths)
    return len(_paged_layers(config)) * PAGE_SIZE * heads * width * (form.stored_dtype or dtype).itemsize


def _paged_layers(config: ModelConfig) -> dict[int, int]:
    """The layers that have keys, each with its index in a page."""
    layers = [layer for layer, kind in enumerate(config.layer_types) if kind != "linear"]
    return {layer: index for index, layer in enumerate(layers)}


def _padded(rows: list[list[CrossKeyValues]]) -> list[CrossKeyValues]:
    """One batch of the cross-attention's keys and values of each layer, padded to the longest source text."""
    if len(rows) == 1:
        return rows[0]
    lengths = [layers[0].keys.shape[2] for layers in rows]
    longest, device = max(lengths), rows[0][0].keys.device
    real = torch.arange(longest, device=device) < torch.tensor(lengths, device=device)[:, None]
    mask = AttentionMask(dense=real[:, None, None])

    def pad(parts: list[Tensor]) -> Tensor:
        return torch.cat([F.pad(part, (0, 0, 0, longest - part.shape[2])) for part in parts])

    return [
        CrossKeyValues(pad([each.keys for each in layer]), pad([each.values for each in layer]), mask)
        for layer in zip(*rows, strict=True)
    ]
