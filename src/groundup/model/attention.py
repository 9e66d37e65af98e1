"""Attention (Vaswani et al. 2017): every token gathers what it needs from the tokens that it may see.

softmax(Q K^T / sqrt(K)) V for each head. Heads may share keys and values in groups (Ainslie et al. 2023):
with G < H heads of keys and values the cache shrinks by H / G; G = 1 is multi-query attention (Shazeer 2019).
"""

from collections.abc import Callable
from functools import cache as once
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import flex_attention

from groundup.model.mask import Mask
from groundup.model.norm import build_norm
from groundup.model.precision import for_products
from groundup.model.rope import Rotation, keep, rotate
from groundup.recipe import ModelConfig


class View(NamedTuple):
    """What all layers of one kind have in common in one pass of the model."""

    mask: Mask
    rotation: Rotation | None


@runtime_checkable
class KeyValues(Protocol):
    """Where a layer leaves the keys and values of new tokens and gets those of all back; see cache.py."""

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]: ...


class Attention(nn.Module):
    """Self-attention of one layer."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        width, heads, kv_heads = config.hidden_size, config.num_heads, config.num_kv_heads
        bias = config.attention_bias != "none"
        self.layer, self.head_dim = layer, config.head_dim
        self.q_proj = nn.Linear(width, heads * config.head_dim, bias=bias)
        self.k_proj = nn.Linear(width, kv_heads * config.head_dim, bias=bias)
        self.v_proj = nn.Linear(width, kv_heads * config.head_dim, bias=bias)
        self.o_proj = nn.Linear(heads * config.head_dim, width, bias=config.attention_bias == "all")
        self.q_norm = build_norm(config, config.head_dim) if config.qk_norm else nn.Identity()
        self.k_norm = build_norm(config, config.head_dim) if config.qk_norm else nn.Identity()
        self.rotate: Callable[..., Tensor] = rotate if config.positions == "rope" else keep
        self.attend = build_attend(config)

    def forward(
        self, x: Float[Tensor, "B T D"], view: View, cache: KeyValues | None = None
    ) -> Float[Tensor, "B T D"]:
        x = for_products(x)
        query = self.rotate(self.q_norm(split_heads(self.q_proj(x), self.head_dim)), view.rotation)
        key = self.rotate(self.k_norm(split_heads(self.k_proj(x), self.head_dim)), view.rotation)
        value = split_heads(self.v_proj(x), self.head_dim)
        if cache is not None:
            key, value = cache.append(self.layer, key, value)
        return self.o_proj(merge_heads(self.attend(query, key, value, view.mask)))


class Crossing(NamedTuple):
    """What a layer of a decoder looks at in the encoder's output: made once for each text that is read."""

    keys: Float[Tensor, "B G S K"]
    values: Float[Tensor, "B G S K"]
    mask: Mask


class CrossAttention(nn.Module):
    """Attention from a decoder's tokens to an encoder's: other texts, so it knows no positions."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        width, heads, kv_heads = config.hidden_size, config.num_heads, config.num_kv_heads
        bias = config.attention_bias != "none"
        self.head_dim = config.head_dim
        self.q_proj = nn.Linear(width, heads * config.head_dim, bias=bias)
        self.k_proj = nn.Linear(width, kv_heads * config.head_dim, bias=bias)
        self.v_proj = nn.Linear(width, kv_heads * config.head_dim, bias=bias)
        self.o_proj = nn.Linear(heads * config.head_dim, width, bias=config.attention_bias == "all")
        self.attend = build_attend(config)

    def look_at(self, memory: Float[Tensor, "B S D"], mask: Mask) -> Crossing:
        """Keys and values of the encoder's output."""
        memory = for_products(memory)
        keys, values = self.k_proj(memory), self.v_proj(memory)
        return Crossing(split_heads(keys, self.head_dim), split_heads(values, self.head_dim), mask)

    def forward(self, x: Float[Tensor, "B T D"], crossing: Crossing) -> Float[Tensor, "B T D"]:
        query = split_heads(self.q_proj(x), self.head_dim)
        return self.o_proj(merge_heads(self.attend(query, *crossing)))


def split_heads(x: Float[Tensor, "B T HK"], head_dim: int) -> Float[Tensor, "B H T K"]:
    return x.unflatten(-1, (-1, head_dim)).transpose(1, 2)


def merge_heads(x: Float[Tensor, "B H T K"]) -> Float[Tensor, "B T HK"]:
    return x.transpose(1, 2).flatten(2)


Attend = Callable[[Tensor, Tensor, Tensor, Mask], Tensor]
Cap = Callable[[Tensor], Tensor]

SMALL = 2**18
"""Products of queries and keys in a head up to which the plain form is faster, on a CPU in bfloat16."""


def build_attend(config: ModelConfig) -> Attend:
    """The function that a layer gathers with."""
    scale = config.attention_scale or config.head_dim**-0.5
    if config.attention_softcap is not None:
        return partial(attend_capped, scale=scale, cap=partial(softcap, limit=config.attention_softcap))
    return partial(attend, scale=scale)


def attend_plainly(
    query: Float[Tensor, "B H T K"],
    key: Float[Tensor, "B G S K"],
    value: Float[Tensor, "B G S K"],
    mask: Mask,
    *,
    scale: float,
    cap: Cap = lambda products: products,
) -> Float[Tensor, "B H T K"]:
    """softmax(cap(scale * query key^T)) value, written out. The fused forms are tested against it."""
    B, H, T, K = query.shape
    _, G, S, _ = key.shape
    # The queries of the H / G heads that share a key are rows of one matrix product: no key is ever copied.
    rows = query.reshape(B, G, H // G * T, K)
    products = cap(rows @ (key * scale).transpose(-2, -1)).view(B, H, T, S)
    weights = (products + mask.bias(T, S, products)).softmax(dim=-1)
    return (weights.view(B, G, H // G * T, S) @ value).view(B, H, T, K)


def attend(
    query: Float[Tensor, "B H T K"],
    key: Float[Tensor, "C G S K"],
    value: Float[Tensor, "C G S K"],
    mask: Mask,
    *,
    scale: float,
) -> Float[Tensor, "B H T K"]:
    """softmax(scale * query key^T) value, in the form that is fastest where the tensors are."""
    if mask.blocks is not None:
        return _flex()(query, key, value, block_mask=mask.blocks, scale=scale, enable_gqa=True)
    slow = query.device.type == "cpu" and query.dtype == torch.bfloat16
    if slow and query.shape[2] * key.shape[2] <= SMALL:
        return attend_plainly(query, key, value, mask, scale=scale)
    dense = None if mask.dense is None else mask.dense_for(query)
    grouped = query.shape[1] != key.shape[1]  # not all kernels know groups
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=dense, is_causal=mask.causal, scale=scale, enable_gqa=grouped
    )


def attend_capped(
    query: Float[Tensor, "B H T K"],
    key: Float[Tensor, "C G S K"],
    value: Float[Tensor, "C G S K"],
    mask: Mask,
    *,
    scale: float,
    cap: Cap,
) -> Float[Tensor, "B H T K"]:
    """As `attend`, with each product squeezed by `cap`. Only FlexAttention has a fused form of it."""
    if mask.blocks is None:
        return attend_plainly(query, key, value, mask, scale=scale, cap=cap)

    def capped(product: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return cap(product)

    return _flex()(query, key, value, score_mod=capped, block_mask=mask.blocks, scale=scale, enable_gqa=True)


def softcap(x: Float[Tensor, "..."], limit: float) -> Float[Tensor, "..."]:
    """limit * tanh(x / limit): between -limit and limit, and almost x near zero (Gemma 2, section 2)."""
    return limit * torch.tanh(x / limit)


@once
def _flex() -> Callable[..., Tensor]:
    """FlexAttention is fast only when compiled."""
    return torch.compile(flex_attention)
