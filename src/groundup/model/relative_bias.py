"""Relative position bias of T5 (Raffel et al. 2020, section 2.1): a learned number per head and distance."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.recipe import ModelConfig


class RelativeBias(nn.Embedding):
    """The bias of every query-key score; small distances have a bucket each."""

    def __init__(self, config: ModelConfig, causal: bool):
        super().__init__(config.relative_buckets, config.num_heads)
        self.causal = causal
        self.max_distance = config.relative_max_distance

    def forward(self, queries: Int[Tensor, " T"], keys: Int[Tensor, " S"]) -> Float[Tensor, "1 H T S"]:
        distance = keys[None, :] - queries[:, None]
        buckets = relative_position_bucket(distance, self.num_embeddings, self.max_distance, self.causal)
        return super().forward(buckets).permute(2, 0, 1)[None]


def relative_position_bucket(
    distance: Int[Tensor, "..."], num_buckets: int, max_distance: int, causal: bool
) -> Int[Tensor, "..."]:
    """The bucket of key position minus query position: half the buckets are exact, half logarithmic.

    Without a causal mask, half the buckets are for earlier keys and half for later ones.
    """
    if causal:
        base, distance = torch.zeros_like(distance), (-distance).clamp(min=0)
    else:
        num_buckets //= 2
        base, distance = (distance > 0).long() * num_buckets, distance.abs()
    exact = num_buckets // 2
    far = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact) * (num_buckets - exact)
    far = (exact + far.long()).clamp(max=num_buckets - 1)
    return base + torch.where(distance < exact, distance, far)
