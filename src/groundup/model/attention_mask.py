"""Attention masks: one predicate (causal, sliding window, packed documents), lowered to each backend's form.

A query attends to a key at or before its own position (causal), inside the sliding window, and of the same document.
`document_ids` (B T) number the documents packed into a sequence; padding counts as one more document. A full or a purely
causal mask needs no tensor.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(batch, head, query index, key index) -> whether the query attends to the key (FlexAttention's mask_mod)."""


@dataclass(frozen=True)
class AttentionMask:
    """At most one of the three fields is set; none: full attention."""

    causal: bool = False
    dense: Bool[Tensor, "#B #H T S"] | Float[Tensor, "#B #H T S"] | None = None
    """Boolean (True: attend), or floating point: added to the scores."""
    block_mask: BlockMask | None = None

    def bias(self, num_queries: int, num_keys: int, scores: Tensor) -> Float[Tensor, "#B #H #T #S"]:
        """The mask as a term of the scores: 0 to attend, -inf not to."""
        if self.dense is not None:
            return self.additive_mask(scores)
        bias = scores.new_zeros(1, 1, num_queries, num_keys)
        if self.causal:
            bias.fill_(-torch.inf).triu_(1 + num_keys - num_queries)
        return bias

    def select_rows(self, rows: Int[Tensor, " R"]) -> "AttentionMask":
        """The mask of the sequences with these indices."""
        if self.dense is None or self.dense.shape[0] == 1:
            return self
        return AttentionMask(dense=self.dense[rows])

    def additive_mask(self, x: Tensor) -> Float[Tensor, "#B #H T S"]:
        """`dense` as a term of the scores, in the dtype of `x`."""
        assert self.dense is not None
        if self.dense.is_floating_point():
            return self.dense.to(x.dtype)
        return torch.zeros_like(self.dense, dtype=x.dtype).masked_fill_(~self.dense, -torch.inf)


def build_mask(
    num_queries: int,
    num_keys: int,
    device: torch.device,
    *,
    causal: bool,
    window: int | None = None,
    document_ids: Int[Tensor, "B T"] | None = None,
    key_document_ids: Int[Tensor, "B S"] | None = None,
    query_offset: int | None = None,
) -> AttentionMask:
    """The mask of `num_queries` tokens over `num_keys`.

    Args:
        query_offset: index of the first query among the keys; default: queries come last if causal, else first.
        window: sliding window in tokens, the query included; on both sides if not causal.
        document_ids: document of each query, and of each key unless `key_document_ids` is given.
    """
    if window is not None and window >= num_keys:
        window = None
    if window is None and document_ids is None and (not causal or num_queries in (1, num_keys)):
        return AttentionMask(causal=causal and num_queries > 1)
    offset = query_offset if query_offset is not None else num_keys - num_queries if causal else 0
    mask_mod = build_mask_mod(
        causal, window, document_ids, document_ids if key_document_ids is None else key_document_ids, offset
    )
    batch = None if document_ids is None else document_ids.shape[0]
    if device.type == "cuda" and num_queries > 1:
        return AttentionMask(
            block_mask=create_block_mask(mask_mod, batch, None, num_queries, num_keys, device=str(device))
        )
    return AttentionMask(dense=build_dense_mask(mask_mod, batch or 1, num_queries, num_keys, device))


def build_mask_mod(
    causal: bool,
    window: int | None,
    document_ids: Tensor | None,
    key_document_ids: Tensor | None,
    query_offset: int = 0,
) -> MaskMod:
    """The predicate of `build_mask`; `query_offset` is the position of the first query."""

    def mask_mod(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        position = query + query_offset
        attends = (key <= position) if causal else (key >= 0)
        if window is not None:
            attends = attends & ((position - key).abs() < window)
        if document_ids is not None and key_document_ids is not None:
            attends = attends & (document_ids[batch, query] == key_document_ids[batch, key])
        return attends

    return mask_mod


def build_dense_mask(
    mask_mod: MaskMod, batch: int, num_queries: int, num_keys: int, device: torch.device
) -> Bool[Tensor, "B 1 T S"]:
    """The predicate as a tensor."""
    batches = torch.arange(batch, device=device)[:, None, None, None]
    queries = torch.arange(num_queries, device=device)[:, None]
    keys = torch.arange(num_keys, device=device)
    return mask_mod(batches, torch.zeros_like(batches), queries, keys).expand(batch, 1, num_queries, num_keys)


def compute_positions(tokens: Int[Tensor, "B T"], document_ids: Int[Tensor, "B T"] | None) -> Int[Tensor, "*B T"]:
    """Positions (T), or (B T) restarting with each document: document ids [7 7 7 9 9] -> [0 1 2 0 1]."""
    if document_ids is None:
        return torch.arange(tokens.shape[1], device=tokens.device)
    index = torch.arange(document_ids.shape[1], device=document_ids.device).expand_as(document_ids)
    begins = torch.ones_like(document_ids, dtype=torch.bool)
    begins[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    return index - torch.where(begins, index, 0).cummax(dim=1).values
