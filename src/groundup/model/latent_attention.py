"""Multi-head latent attention (DeepSeek-AI 2024, "DeepSeek-V2", section 2.1): keys and values from one small vector a token.

    latent = norm(W_kv_a x)                       R numbers, all that keys and values of the H heads are made of
    key    = [W_key latent, rotate(W_rope x)]     N + P numbers a head; the rotated part is the same for all heads
    value  = W_value latent                       Kv numbers a head
    query  = [q, rotate(q_rope)] of W_q x, or of W_q_b norm(W_q_a x)

The cache holds latents and rotated keys: R + P numbers a token instead of H (N + P + Kv). For one new token keys and values
are never made: q . (W_key latent) = (W_key^T q) . latent, so that the latents themselves serve as keys and values of one
key/value head (the "absorbed" form of section 2.1.2). Kept from the published code: the norms' epsilon is 1e-6 in all models.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from groundup.model.attention import AttentionContext, build_attention_function, merge_heads, split_heads
from groundup.model.kv_cache import KVCache
from groundup.model.matmul_precision import cast_for_matmul
from groundup.model.norm import RMSNorm
from groundup.model.rope import Rotation, rotate
from groundup.recipe import ModelConfig
from groundup.recipe.mixer_config import LatentAttentionConfig

LATENT_NORM_EPS = 1e-6


class LatentAttention(nn.Module):
    """Self-attention of one layer with compressed keys and values.

    Attributes:
        absorbs: one new token takes the absorbed form; else it is computed as a prompt is.
    """

    absorbs = True

    def __init__(self, config: ModelConfig, latent: LatentAttentionConfig, layer: int):
        super().__init__()
        width, heads = config.hidden_size, config.num_heads
        bias = config.attention_bias in ("qkv", "all")
        self.layer = layer
        self.head_dim, self.rope_dim, self.value_dim = config.head_dim, latent.rope_head_dim, latent.value_head_dim
        self.plain_dim = self.head_dim - self.rope_dim  # not rotated
        self.kv_rank = latent.kv_rank
        if latent.q_rank is None:
            self.q_proj = nn.Linear(width, heads * self.head_dim, bias=False)
        else:
            self.q_a_proj = nn.Linear(width, latent.q_rank, bias=bias)
            self.q_a_norm = RMSNorm(latent.q_rank, LATENT_NORM_EPS)
            self.q_proj = nn.Linear(latent.q_rank, heads * self.head_dim, bias=False)
        self.compresses_queries = latent.q_rank is not None
        self.kv_a_proj = nn.Linear(width, latent.kv_rank + latent.rope_head_dim, bias=bias)
        self.kv_a_norm = RMSNorm(latent.kv_rank, LATENT_NORM_EPS)
        self.kv_b_proj = nn.Linear(latent.kv_rank, heads * (self.plain_dim + self.value_dim), bias=False)
        self.o_proj = nn.Linear(heads * self.value_dim, width, bias=config.attention_bias in ("output", "all"))
        self.attention_function = build_attention_function(config)

    def forward(
        self, x: Float[Tensor, "B T D"], context: AttentionContext, cache: KVCache | None = None
    ) -> Float[Tensor, "B T D"]:
        x = cast_for_matmul(x)
        assert context.rotation is not None
        query = self._rotate_end(self._project_queries(x), context.rotation)
        latent, shared_key = self.kv_a_proj(x).split((self.kv_rank, self.rope_dim), dim=-1)
        compressed = torch.cat((self.kv_a_norm(latent), shared_key), dim=-1)[:, None]
        compressed = self._rotate_end(compressed, context.rotation)
        if cache is not None:
            compressed, _ = cache.append(self.layer, compressed, compressed[..., :0])
        # A wrapped or quantized matrix (LoRA, GPTQ) has no plain weight to multiply with.
        absorbs = self.absorbs and cache is not None and x.shape[1] == 1 and type(self.kv_b_proj) is nn.Linear
        attend = self._attend_latents if absorbs else self._attend_expanded
        return self.o_proj(merge_heads(attend(query, compressed, context)))

    def _project_queries(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B H T K"]:
        if self.compresses_queries:
            x = self.q_a_norm(self.q_a_proj(x))
        return split_heads(self.q_proj(x), self.head_dim)

    def _rotate_end(self, x: Float[Tensor, "B H T K"], rotation: Rotation) -> Float[Tensor, "B H T K"]:
        """Rotate the last `rope_dim` elements of each head."""
        plain, rotated = x.split((x.shape[-1] - self.rope_dim, self.rope_dim), dim=-1)
        return torch.cat((plain, rotate(rotated, rotation)), dim=-1)

    def _attend_expanded(
        self, query: Float[Tensor, "B H T K"], compressed: Float[Tensor, "B 1 S W"], context: AttentionContext
    ) -> Float[Tensor, "B H T Kv"]:
        """With the keys and values of every head."""
        latent, shared_key = compressed.split((self.kv_rank, self.rope_dim), dim=-1)
        expanded = split_heads(self.kv_b_proj(latent[:, 0]), self.plain_dim + self.value_dim)
        plain_key, value = expanded.split((self.plain_dim, self.value_dim), dim=-1)
        key = torch.cat((plain_key, shared_key.expand(-1, plain_key.shape[1], -1, -1)), dim=-1)
        return self.attention_function(query, key, value, context.mask)

    def _attend_latents(
        self, query: Float[Tensor, "B H T K"], compressed: Float[Tensor, "B 1 S W"], context: AttentionContext
    ) -> Float[Tensor, "B H T Kv"]:
        """With the latents as keys and values of all heads; W_key multiplies the queries, W_value the result."""
        weight = self.kv_b_proj.weight.to(query.dtype).unflatten(0, (-1, self.plain_dim + self.value_dim))
        to_key, to_value = weight.split((self.plain_dim, self.value_dim), dim=1)  # (H N R) and (H Kv R)
        plain, rotated = query.split((self.plain_dim, self.rope_dim), dim=-1)
        query = torch.cat((plain @ to_key, rotated), dim=-1)
        mixed = self.attention_function(query, compressed, compressed[..., : self.kv_rank], context.mask)
        return mixed @ to_value.transpose(1, 2)
