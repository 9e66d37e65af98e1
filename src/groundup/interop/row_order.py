"""Orders of rows in foreign projections: fused queries, keys and values, and pairs of RoPE that are neighbours.

An order has the index of each foreign row in our concatenation of the matrices: `foreign = torch.cat(native)[order]`.
"""

import torch
from torch import Tensor

from groundup.interop.weight_map import TensorMap, map_concatenated


def grouped_rows(heads: int, kv_heads: int, head_dim: int) -> Tensor:
    """For each key head its query heads, its keys and its values, as GPT-NeoX, BLOOM and Falcon fuse them."""
    queries = torch.arange(heads * head_dim).view(kv_heads, -1)
    keys = heads * head_dim + torch.arange(kv_heads * head_dim).view(kv_heads, -1)
    return torch.cat((queries, keys, keys + kv_heads * head_dim), dim=1).flatten()


def interleaved_rows(heads: int, head_dim: int, rotary_dim: int | None = None) -> Tensor:
    """Pairs (2i, 2i + 1) of a head, as GPT-J and Meta's Llama rotate, instead of ours, (i, i + rotary_dim / 2)."""
    rotary_dim = rotary_dim or head_dim
    pairs = torch.arange(rotary_dim).view(2, -1).T.flatten()
    head = torch.cat((pairs, torch.arange(rotary_dim, head_dim)))
    return (torch.arange(heads)[:, None] * head_dim + head).flatten()


def map_interleaved(native: str, foreign: str, heads: int, head_dim: int, rotary_dim: int | None = None) -> TensorMap:
    """A projection of queries or keys (or its bias, or their norm) whose foreign rows are `interleaved_rows`."""
    order = interleaved_rows(heads, head_dim, rotary_dim)
    return map_concatenated([native], foreign, [heads * head_dim], order=order)
