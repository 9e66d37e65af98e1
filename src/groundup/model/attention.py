"""Attention (Vaswani et al. 2017): every token gathers from the tokens that it may see what it needs from them.

softmax(Q K^T / sqrt(K)) V for each head. Heads may share keys and values in groups (Ainslie et al. 2023): with G < H
heads of keys and values the cache shrinks by H / G; G = 1 is multi-query attention (Shazeer 2019).
"""

from collections.abc import Callable
from functools import cache as once
from functools import partial
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import flex_attention

from groundup.model.mask import Mask
from groundup.model.norm import build_norm
from groundup.model.rope import Rotation, rotate
from groundup.recipe import ModelConfig


class View(NamedTuple):
    """What all layers of one kind have in common in one pass of the model."""

    mask: Mask
    rotation: Rotation | None


class KeyValues(Protocol):
    """Where a layer leaves the keys and values of new tokens, and gets those of all tokens back; see cache.py."""

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]: ...


class Attention(nn.Module):
    """Self-attention of one layer."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        heads, kv_heads, width = config.num_heads, config.num_kv_heads, config.hidden_size
        bias = config.attention_bias != "none"
        self.layer, self.head_dim = layer, config.head_dim
        self.q_proj = nn.Linear(width, heads * config.head_dim, bias=bias)
        self.k_proj = nn.Linear(width, kv_heads * config.head_dim, bias=bias)
        self.v_proj = nn.Linear(width, kv_heads * config.head_dim, bias=bias)
        self.o_proj = nn.Linear(heads * config.head_dim, width, bias=config.attention_bias == "all")
        self.q_norm = build_norm(config, config.head_dim) if config.qk_norm else nn.Identity()
        self.k_norm = build_norm(config, config.head_dim) if config.qk_norm else nn.Identity()
        self.rotate = rotate if config.positions == "rope" else _keep
        self.attend = build_attend(config)

    def forward(
        self, x: Float[Tensor, "B T D"], view: View, cache: KeyValues | None = None
    ) -> Float[Tensor, "B T D"]:
        B, T, _ = x.shape
        query = self.q_norm(self.q_proj(x).view(B, T, -1, self.head_dim)).transpose(1, 2)
        key = self.k_norm(self.k_proj(x).view(B, T, -1, self.head_dim)).transpose(1, 2)
        value = self.v_proj(x).view(B, T, -1, self.head_dim).transpose(1, 2)
        query, key = self.rotate(query, view.rotation), self.rotate(key, view.rotation)
        if cache is not None:
            key, value = cache.append(self.layer, key, value)
        gathered = self.attend(query, key, value, view.mask)
        return self.o_proj(gathered.transpose(1, 2).reshape(B, T, -1))


Attend = Callable[[Tensor, Tensor, Tensor, Mask], Tensor]


def attend(
    query: Float[Tensor, "B H T K"],
    key: Float[Tensor, "C G S K"],
    value: Float[Tensor, "C G S K"],
    mask: Mask,
    *,
    scale: float,
) -> Float[Tensor, "B H T K"]:
    """softmax(scale * query key^T) value: by torch's fused attention, or by FlexAttention where the mask has blocks."""
    if mask.blocks is not None:
        return _flex()(query, key, value, block_mask=mask.blocks, scale=scale, enable_gqa=True)
    dense = mask.dense
    if dense is not None and dense.is_floating_point():
        dense = dense.to(query.dtype)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=dense, is_causal=mask.causal, scale=scale, enable_gqa=True
    )


def attend_softcapped(
    query: Float[Tensor, "B H T K"],
    key: Float[Tensor, "C G S K"],
    value: Float[Tensor, "C G S K"],
    mask: Mask,
    *,
    scale: float,
    softcap: float,
) -> Float[Tensor, "B H T K"]:
    """As `attend`, with each product squeezed between -softcap and softcap by tanh (Gemma 2, section 2)."""
    if mask.blocks is not None:
        capped = partial(_softcap_product, softcap=softcap)
        return _flex()(
            query, key, value, score_mod=capped, block_mask=mask.blocks, scale=scale, enable_gqa=True
        )
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)
    products = query @ key.transpose(-2, -1) * scale
    products = softcap * torch.tanh(products / softcap)
    if mask.causal:
        later = torch.ones(products.shape[-2:], dtype=torch.bool, device=query.device).triu(1)
        products = products.masked_fill(later, -torch.inf)
    elif mask.dense is not None:
        products = products.masked_fill(~mask.dense, -torch.inf)
    return products.softmax(dim=-1, dtype=torch.float32).to(value.dtype) @ value


def build_attend(config: ModelConfig) -> Attend:
    """The function that a layer gathers with."""
    scale = config.attention_scale or config.head_dim**-0.5
    if config.attention_softcap is not None:
        return partial(attend_softcapped, scale=scale, softcap=config.attention_softcap)
    return partial(attend, scale=scale)


def _keep(x: Tensor, rotation: Rotation | None) -> Tensor:
    return x


def _softcap_product(
    product: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor, *, softcap: float
) -> Tensor:
    return softcap * torch.tanh(product / softcap)


@once
def _flex() -> Callable[..., Tensor]:
    """FlexAttention is fast only when compiled."""
    return torch.compile(flex_attention)
