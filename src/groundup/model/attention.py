"""Attention (Vaswani et al. 2017): self-attention, cross-attention and the functions that compute them.

softmax(Q K^T / sqrt(K)) V for each head. Grouped-query attention (Ainslie et al. 2023): with G < H key/value heads the
cache shrinks by H / G; G = 1 is multi-query attention (Shazeer 2019).
"""

from collections.abc import Callable
from functools import cache as once
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import flex_attention

from groundup.model.attention_mask import AttentionMask
from groundup.model.kv_cache import KVCache
from groundup.model.matmul_precision import cast_for_matmul
from groundup.model.norm import build_qk_norm
from groundup.model.rope import Rotation, build_rotation, latent_attention_magnitude
from groundup.recipe import ModelConfig


class AttentionContext(NamedTuple):
    """Mask and rotation of one forward pass, shared by all layers of one type (global or local)."""

    mask: AttentionMask
    rotation: Rotation | None


class AttentionProjections(nn.Module):
    """The four matrices of self-attention and cross-attention, and the function between them."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        width, heads, kv_heads = config.hidden_size, config.num_heads, config.num_kv_heads
        bias = config.attention_bias in ("qkv", "all")
        self.head_dim = config.head_dim
        self.q_proj = nn.Linear(width, heads * config.head_dim, bias=bias)
        self.k_proj = nn.Linear(width, kv_heads * config.head_dim, bias=bias)
        self.v_proj = nn.Linear(width, kv_heads * config.head_dim, bias=bias)
        self.o_proj = nn.Linear(heads * config.head_dim, width, bias=config.attention_bias in ("output", "all"))
        self.attention_function = build_attention_function(config)


class Attention(AttentionProjections):
    """Self-attention of one layer."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__(config)
        self.layer = layer
        self.q_norm = build_qk_norm(config, config.num_heads, layer)
        self.k_norm = build_qk_norm(config, config.num_kv_heads, layer)
        self.split = norm_and_split if config.qk_norm_type == "projection" else split_and_norm
        self.rotate = build_rotation(config, layer)
        self.norm_after_rotation = config.qk_norm_after_rope
        bias = config.attention_bias in ("qkv", "all")
        width = config.num_heads * config.head_dim
        self.gate_proj = nn.Linear(config.hidden_size, width, bias=bias) if config.attention_gate else None

    def forward(
        self, x: Float[Tensor, "B T D"], context: AttentionContext, cache: KVCache | None = None
    ) -> Float[Tensor, "B T D"]:
        x = cast_for_matmul(x)
        query = self.rotated_heads(self.q_proj(x), self.q_norm, context.rotation)
        key = self.rotated_heads(self.k_proj(x), self.k_norm, context.rotation)
        value = split_heads(self.v_proj(x), self.head_dim)
        if cache is not None:
            key, value = cache.append(self.layer, key, value)
        outputs = merge_heads(self.attention_function(query, key, value, context.mask))
        if self.gate_proj is not None:
            outputs = outputs * torch.sigmoid(self.gate_proj(x))
        return self.o_proj(outputs)

    def rotated_heads(
        self, x: Float[Tensor, "B T HK"], norm: nn.Module, rotation: Rotation | None
    ) -> Float[Tensor, "B H T K"]:
        """Heads of queries or keys, normalized and rotated; Hunyuan and Llama 4 rotate first."""
        if self.norm_after_rotation:
            return norm(self.rotate(split_heads(x, self.head_dim), rotation))
        return self.rotate(self.split(x, norm, self.head_dim), rotation)


class CrossKeyValues(NamedTuple):
    """Keys and values of the encoder's output for one decoder layer: computed once per source text."""

    keys: Float[Tensor, "B G S K"]
    values: Float[Tensor, "B G S K"]
    mask: AttentionMask

    def select_rows(self, rows: Int[Tensor, " R"]) -> "CrossKeyValues":
        """Those of the source texts with these indices, in this order."""
        return CrossKeyValues(self.keys[rows], self.values[rows], self.mask.select_rows(rows))


class CrossAttention(AttentionProjections):
    """Attention from decoder tokens to the encoder's output, without positions."""

    def project_memory(self, memory: Float[Tensor, "B S D"], mask: AttentionMask) -> CrossKeyValues:
        """Keys and values of the encoder's output."""
        memory = cast_for_matmul(memory)
        keys, values = self.k_proj(memory), self.v_proj(memory)
        return CrossKeyValues(split_heads(keys, self.head_dim), split_heads(values, self.head_dim), mask)

    def forward(self, x: Float[Tensor, "B T D"], cross_key_values: CrossKeyValues) -> Float[Tensor, "B T D"]:
        query = split_heads(self.q_proj(x), self.head_dim)
        return self.o_proj(merge_heads(self.attention_function(query, *cross_key_values)))


def split_heads(x: Float[Tensor, "B T HK"], head_dim: int) -> Float[Tensor, "B H T K"]:
    return x.unflatten(-1, (-1, head_dim)).transpose(1, 2)


def split_and_norm(x: Float[Tensor, "B T HK"], norm: nn.Module, head_dim: int) -> Float[Tensor, "B H T K"]:
    """Heads, each normalized by itself (Qwen3)."""
    return norm(split_heads(x, head_dim))


def norm_and_split(x: Float[Tensor, "B T HK"], norm: nn.Module, head_dim: int) -> Float[Tensor, "B H T K"]:
    """Heads, normalized together (OLMo 2 report, section 3.2)."""
    return split_heads(norm(x), head_dim)


def merge_heads(x: Float[Tensor, "B H T K"]) -> Float[Tensor, "B T HK"]:
    return x.transpose(1, 2).flatten(2)


AttentionFunction = Callable[[Tensor, Tensor, Tensor, AttentionMask], Tensor]
SoftcapFunction = Callable[[Tensor], Tensor]

EAGER_MAX_SCORES = 2**18
"""Scores per head (T * S) up to which `eager_attention` trains faster than SDPA, on a CPU in bfloat16. It is no way to decode:
oneDNN compiles its products anew for each number of keys."""


def build_attention_function(config: ModelConfig) -> AttentionFunction:
    """SDPA, or its softcapped form or that with sinks, with the scale of `config`."""
    scale = config.attention_scale or config.head_dim**-0.5
    if config.latent_attention is not None and config.attention_scale is None:
        scale *= latent_attention_magnitude(config.rope_scaling) ** 2
    if config.attention_sinks:
        return SinkAttention(config.num_heads, scale)
    if config.attention_softcap is not None:
        return partial(softcap_attention, scale=scale, cap=partial(softcap, limit=config.attention_softcap))
    return partial(sdpa_attention, scale=scale)


def eager_attention(
    query: Float[Tensor, "B H T K"],
    key: Float[Tensor, "B G S K"],
    value: Float[Tensor, "B G S Kv"],
    mask: AttentionMask,
    *,
    scale: float,
    cap: SoftcapFunction = lambda scores: scores,
    sinks: Float[Tensor, " H"] | None = None,
) -> Float[Tensor, "B H T Kv"]:
    """softmax(cap(scale * query key^T)) value, in plain PyTorch. The fused forms are tested against it.

    sinks: a score for each head that is added to the denominator of the softmax, of a key without a value.
    """
    B, H, T, K = query.shape
    _, G, S, _ = key.shape
    # One matrix product for the H / G query heads of a key head, so that keys are not copied.
    grouped = query.reshape(B, G, H // G * T, K)
    scores = cap(grouped @ (key * scale).transpose(-2, -1)).view(B, H, T, S)
    scores = scores + mask.bias(T, S, scores)
    weights = scores.softmax(dim=-1)
    if sinks is not None:
        weights = weights * torch.sigmoid(scores.logsumexp(-1, keepdim=True) - sinks[:, None, None]).to(weights.dtype)
    return (weights.view(B, G, H // G * T, S) @ value).view(B, H, T, value.shape[-1])


def sdpa_attention(
    query: Float[Tensor, "B H T K"],
    key: Float[Tensor, "B G S K"],
    value: Float[Tensor, "B G S Kv"],
    mask: AttentionMask,
    *,
    scale: float,
) -> Float[Tensor, "B H T Kv"]:
    """softmax(scale * query key^T) value, by the fastest kernel for the mask and device."""
    if mask.block_mask is not None:
        return _flex()(query, key, value, block_mask=mask.block_mask, scale=scale, enable_gqa=True)
    slow = query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.requires_grad
    if slow and query.shape[2] * key.shape[2] <= EAGER_MAX_SCORES:
        return eager_attention(query, key, value, mask, scale=scale)
    dense = None if mask.dense is None else mask.additive_mask(query)
    grouped = query.shape[1] != key.shape[1]  # not all kernels accept enable_gqa
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=dense, is_causal=mask.causal, scale=scale, enable_gqa=grouped
    )


def softcap_attention(
    query: Float[Tensor, "B H T K"],
    key: Float[Tensor, "B G S K"],
    value: Float[Tensor, "B G S Kv"],
    mask: AttentionMask,
    *,
    scale: float,
    cap: SoftcapFunction,
) -> Float[Tensor, "B H T Kv"]:
    """`sdpa_attention` with each score capped by `cap`. Only FlexAttention has a fused form of it."""
    if mask.block_mask is None:
        return eager_attention(query, key, value, mask, scale=scale, cap=cap)

    def score_mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return cap(score)

    return _flex()(query, key, value, score_mod=score_mod, block_mask=mask.block_mask, scale=scale, enable_gqa=True)


class SinkAttention(nn.Module):
    """Attention with sinks (Xiao et al. 2023, section 3.3, "sink token" as a learned score; gpt-oss).

    Weights are exp(score) / (exp(sink) + sum of exp(scores)): a head can attend to nothing. This is the softmax times
    sigmoid(log-sum-exp of scores - sink).
    """

    def __init__(self, num_heads: int, scale: float):
        super().__init__()
        self.sinks = nn.Parameter(torch.zeros(num_heads))
        self.scale = scale

    def forward(
        self,
        query: Float[Tensor, "B H T K"],
        key: Float[Tensor, "B G S K"],
        value: Float[Tensor, "B G S Kv"],
        mask: AttentionMask,
    ) -> Float[Tensor, "B H T Kv"]:
        if mask.block_mask is None:
            return eager_attention(query, key, value, mask, scale=self.scale, sinks=self.sinks)
        # FlexAttention returns the log-sum-exp, in float32.
        output, log_sum = _flex()(
            query, key, value, block_mask=mask.block_mask, scale=self.scale, enable_gqa=True, return_lse=True
        )
        return output * torch.sigmoid(log_sum - self.sinks[:, None])[..., None].to(output.dtype)


def softcap(x: Float[Tensor, "..."], limit: float) -> Float[Tensor, "..."]:
    """limit * tanh(x / limit): between -limit and limit, and almost x near zero (Gemma 2, section 2)."""
    return limit * torch.tanh(x / limit)


@once
def _flex() -> Callable[..., Tensor]:
    """FlexAttention is fast only when compiled."""
    return torch.compile(flex_attention)
