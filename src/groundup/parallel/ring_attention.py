"""Ring attention (Liu et al. 2023): keys and values travel around the ranks, and no rank ever has all of them.

Each rank attends with its queries to one rank's keys at a time. The result is a mean of values and the log-sum-exp of
its scores; two such results merge into the softmax over both (Milakov & Gimelshein 2018).

The attention is eager, because fused forms do not differentiate through the log-sum-exp on a CPU.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from groundup.model.attention import AttentionFunction
from groundup.model.attention_mask import build_dense_mask, build_mask_mod
from groundup.parallel.collectives import Group, all_to_all

MASKED_SCORE = -1e30
"""In place of minus infinity, whose differences are NaN."""


@dataclass(frozen=True)
class RingMask:
    """The parameters of the full mask, from which the mask between two ranks' tokens is made."""

    causal: bool
    window: int | None
    document_ids: Tensor | None

    def between(self, rank: int, other: int, length: int, device: torch.device) -> Tensor | None:
        """True where a query of `rank` may attend to a key of `other` (B 1 T S); None where all may."""
        distance = rank - other
        if self.window is None and self.document_ids is None and (not self.causal or distance > 0):
            return None
        query_ids = key_ids = None
        batch = 1
        if self.document_ids is not None:
            chunks = self.document_ids.chunk(self.document_ids.shape[1] // length, 1)
            query_ids, key_ids, batch = chunks[rank], chunks[other], len(self.document_ids)
        predicate = build_mask_mod(self.causal, self.window, query_ids, key_ids, distance * length)
        return build_dense_mask(predicate, batch, length, length, device)


def ring_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: RingMask, *, attend: AttentionFunction, group: Group
) -> Float[Tensor, "B H T K"]:
    """Attention of this rank's queries over all ranks' keys."""
    scale = attend.keywords["scale"]  # type: ignore[attr-defined]
    size, rank, length = group.size(), group.rank(), query.shape[2]
    key_value = torch.stack((key, value))
    out, log_sum = None, None
    for step in range(size):
        other = (rank - step) % size
        if mask.causal and other > rank:
            # All keys are later. The backward pass is collective, so they must stay in the graph.
            assert out is not None
            out = out + 0 * key_value.flatten()[0]
        else:
            visible = mask.between(rank, other, length, query.device)
            mean, log = _attend_with_lse(query, key_value[0], key_value[1], visible, scale)
            out, log_sum = (mean, log) if out is None else _merge(out, log_sum, mean, log)
        if step < size - 1:
            key_value = _send_to_next(key_value, group)
    assert out is not None
    return out.to(query.dtype)


def _attend_with_lse(
    query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention (B H T K) in float32, and the log-sum-exp of its scores (B H T 1)."""
    B, H, T, K = query.shape
    _, G, S, _ = key.shape
    rows = query.reshape(B, G, H // G * T, K)
    scores = (rows @ (key * scale).transpose(-2, -1)).float().view(B, H, T, S)
    if visible is not None:
        scores = scores.masked_fill(~visible, MASKED_SCORE)
    log = scores.logsumexp(-1, keepdim=True)
    weights = (scores - log).exp().to(value.dtype)
    return (weights.view(B, G, H // G * T, S) @ value).view(B, H, T, K).float(), log


def _merge(mean: Tensor, log: Tensor | None, other_mean: Tensor, other_log: Tensor) -> tuple[Tensor, Tensor]:
    assert log is not None
    total = torch.logaddexp(log, other_log)
    return mean * (log - total).exp() + other_mean * (other_log - total).exp(), total


def _send_to_next(x: Tensor, group: Group) -> Tensor:
    """Send `x` to the next rank and receive the previous rank's."""
    flat, size = x.flatten(), group.size()
    send_counts, receive_counts = [0] * size, [0] * size
    send_counts[(group.rank() + 1) % size] = receive_counts[(group.rank() - 1) % size] = len(flat)
    return all_to_all(flat, group, send_counts, receive_counts).view_as(x)
