"""Who sees whom: one predicate, from which each backend gets the mask that it is fast with.

A query may see a key that is not later than itself (causal), not farther than the sliding window, and of the
same document. Several documents are packed into one sequence by numbering them: `documents` (B T) holds each
token's number, and padding is one more document. No mask at all, or causality alone, needs no tensor.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(batch, head, query position, key position) -> may it look?"""


@dataclass(frozen=True)
class AttentionMask:
    """At most one of the three is set; with none, all see all."""

    causal: bool = False
    dense: Bool[Tensor, "#B #H T S"] | Float[Tensor, "#B #H T S"] | None = None
    """True where a query may look; or a number to add to each product of query and key."""
    block_mask: BlockMask | None = None

    def bias(self, num_queries: int, num_keys: int, products: Tensor) -> Float[Tensor, "#B #H #T #S"]:
        """What to add to products of queries and keys: 0 where a query may look, -inf where not."""
        if self.dense is not None:
            return self.additive_mask(products)
        bias = products.new_zeros(1, 1, num_queries, num_keys)
        if self.causal:
            bias.fill_(-torch.inf).triu_(1 + num_keys - num_queries)
        return bias

    def additive_mask(self, x: Tensor) -> Float[Tensor, "#B #H T S"]:
        """`dense` as numbers to add, in the dtype of `x`."""
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
        first: the place of the first query among the keys; default: the queries are the last ones where the mask is
            causal, and the first ones where it is not.
        window: how many tokens a query looks back, itself included; ahead too where it is not causal.
        documents: number of each query's document, and of each key's, unless `key_document_ids` tells those.
    """
    if window is not None and window >= num_keys:
        window = None
    if window is None and document_ids is None and (not causal or num_queries in (1, num_keys)):
        return AttentionMask(causal=causal and num_queries > 1)
    offset = query_offset if query_offset is not None else num_keys - num_queries if causal else 0
    predicate = build_mask_mod(
        causal, window, document_ids, document_ids if key_document_ids is None else key_document_ids, offset
    )
    batch = None if document_ids is None else document_ids.shape[0]
    if device.type == "cuda" and num_queries > 1:
        return AttentionMask(
            block_mask=create_block_mask(predicate, batch, None, num_queries, num_keys, device=str(device))
        )
    return AttentionMask(dense=build_dense_mask(predicate, batch or 1, num_queries, num_keys, device))


def build_mask_mod(
    causal: bool,
    window: int | None,
    document_ids: Tensor | None,
    key_document_ids: Tensor | None,
    query_offset: int = 0,
) -> MaskMod:
    """The predicate of `build_mask`; `offset` is the position of the first query."""

    def predicate(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        position = query + query_offset
        seen = (key <= position) if causal else (key >= 0)
        if window is not None:
            seen = seen & ((position - key).abs() < window)
        if document_ids is not None and key_document_ids is not None:
            seen = seen & (document_ids[batch, query] == key_document_ids[batch, key])
        return seen

    return predicate


def build_dense_mask(
    predicate: MaskMod, batch: int, num_queries: int, num_keys: int, device: torch.device
) -> Bool[Tensor, "B 1 T S"]:
    """The predicate written out: True where a query may look."""
    batches = torch.arange(batch, device=device)[:, None, None, None]
    queries = torch.arange(num_queries, device=device)[:, None]
    keys = torch.arange(num_keys, device=device)
    return predicate(batches, torch.zeros_like(batches), queries, keys).expand(
        batch, 1, num_queries, num_keys
    )


def compute_positions(
    tokens: Int[Tensor, "B T"], document_ids: Int[Tensor, "B T"] | None
) -> Int[Tensor, "*B T"]:
    """Positions (T), or (B T) that start anew with each document: [7 7 7 9 9] -> [0 1 2 0 1]."""
    if document_ids is None:
        return torch.arange(tokens.shape[1], device=tokens.device)
    index = torch.arange(document_ids.shape[1], device=document_ids.device).expand_as(document_ids)
    begins = torch.ones_like(document_ids, dtype=torch.bool)
    begins[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    return index - torch.where(begins, index, 0).cummax(dim=1).values
