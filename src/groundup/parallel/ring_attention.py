"""Ring attention (Liu et al. 2023): keys and values go round the context axis, and no rank ever has all of them.

Each rank attends with its queries to one rank's keys at a time. What it gets is a mean of values and the logarithm of
the weight behind it; two such results merge into one as softmax would have it (Milakov & Gimelshein 2018).

The attention is written out, because the fused forms do not differentiate through that logarithm on a CPU.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from groundup.model.attention import AttentionFunction
from groundup.model.attention_mask import build_dense_mask, build_mask_mod
from groundup.parallel.collectives import Group, all_to_all

MASKED_SCORE = -1e30
"""In place of minus infinity, whose differences are not numbers."""


@dataclass(frozen=True)
class RingMask:
    """What decides who sees whom, from which the mask between two ranks' tokens is made when they meet."""

    causal: bool
    window: int | None
    documents: Tensor | None

    def between(self, rank: int, other: int, length: int, device: torch.device) -> Tensor | None:
        """True where a query of `rank` may look at a key of `other` (1 1 T S); None where all may at all."""
        distance = rank - other
        if self.window is None and self.documents is None and (not self.causal or distance > 0):
            return None
        documents = (
            None if self.documents is None else self.documents.chunk(self.documents.shape[1] // length, 1)
        )
        own, theirs = (None, None) if documents is None else (documents[rank], documents[other])
        batch = 1 if own is None else own.shape[0]
        predicate = build_mask_mod(self.causal, self.window, own, theirs, distance * length)
        return build_dense_mask(predicate, batch, length, length, device)


def ring_attention(
    attend: AttentionFunction, group: Group, query: Tensor, key: Tensor, value: Tensor, mask: RingMask
) -> Float[Tensor, "B H T K"]:
    """Attention of this rank's queries over all ranks' keys."""
    scale = attend.keywords["scale"]  # type: ignore[attr-defined]
    size, rank, length = group.size(), group.rank(), query.shape[2]
    pair = torch.stack((key, value))
    out, weight = None, None
    for step in range(size):
        other = (rank - step) % size
        if mask.causal and other > rank:
            # Later tokens. Every rank must still take part in the way back, so the pair stays in the graph.
            assert out is not None
            out = out + 0 * pair.flatten()[0]
        else:
            seen = mask.between(rank, other, length, query.device)
            mean, log = _attend_with_lse(query, pair[0], pair[1], seen, scale)
            out, weight = (mean, log) if out is None else _merge(out, weight, mean, log)
        if step < size - 1:
            pair = _send_to_next(pair, group)
    assert out is not None
    return out.to(query.dtype)


def _attend_with_lse(
    query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """The mean of the values (B H T K), in float32, and log sum exp of the products (B H T 1)."""
    B, H, T, K = query.shape
    _, G, S, _ = key.shape
    rows = query.reshape(B, G, H // G * T, K)
    products = (rows @ (key * scale).transpose(-2, -1)).float().view(B, H, T, S)
    if seen is not None:
        products = products.masked_fill(~seen, MASKED_SCORE)
    log = products.logsumexp(-1, keepdim=True)
    weights = (products - log).exp().to(value.dtype)
    return (weights.view(B, G, H // G * T, S) @ value).view(B, H, T, K).float(), log


def _merge(mean: Tensor, log: Tensor | None, other_mean: Tensor, other_log: Tensor) -> tuple[Tensor, Tensor]:
    assert log is not None
    both = torch.logaddexp(log, other_log)
    return mean * (log - both).exp() + other_mean * (other_log - both).exp(), both


def _send_to_next(pair: Tensor, group: Group) -> Tensor:
    """To the next rank; what the one before it passes on comes back."""
    flat = pair.flatten()
    sent, received = [0] * group.size(), [0] * group.size()
    sent[(group.rank() + 1) % group.size()] = received[(group.rank() - 1) % group.size()] = len(flat)
    return all_to_all(flat, group, sent, received).view_as(pair)
