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

Predicate = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(batch, head, query position, key position) -> may it look?"""


@dataclass(frozen=True)
class Mask:
    """At most one of the three is set; with none, all see all."""

    causal: bool = False
    dense: Bool[Tensor, "#B #H T S"] | Float[Tensor, "#B #H T S"] | None = None
    """True where a query may look; or a number to add to each product of query and key."""
    blocks: BlockMask | None = None

    def bias(self, num_queries: int, num_keys: int, products: Tensor) -> Float[Tensor, "#B #H #T #S"]:
        """What to add to products of queries and keys: 0 where a query may look, -inf where not."""
        if self.dense is not None:
            return self.dense_for(products)
        bias = products.new_zeros(1, 1, num_queries, num_keys)
        if self.causal:
            bias.fill_(-torch.inf).triu_(1 + num_keys - num_queries)
        return bias

    def dense_for(self, x: Tensor) -> Float[Tensor, "#B #H T S"]:
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
    documents: Int[Tensor, "B T"] | None = None,
    key_documents: Int[Tensor, "B S"] | None = None,
    first: int | None = None,
) -> Mask:
    """The mask of `num_queries` tokens over `num_keys`.

    Args:
        first: the place of the first query among the keys; default: the queries are the last ones where the mask is
            causal, and the first ones where it is not.
        window: how many tokens a query looks back, itself included; ahead too where it is not causal.
        documents: number of each query's document, and of each key's, unless `key_documents` tells those.
    """
    if window is not None and window >= num_keys:
        window = None
    if window is None and documents is None and (not causal or num_queries in (1, num_keys)):
        return Mask(causal=causal and num_queries > 1)
    offset = first if first is not None else num_keys - num_queries if causal else 0
    predicate = sees(causal, window, documents, documents if key_documents is None else key_documents, offset)
    batch = None if documents is None else documents.shape[0]
    if device.type == "cuda" and num_queries > 1:
        return Mask(
            blocks=create_block_mask(predicate, batch, None, num_queries, num_keys, device=str(device))
        )
    return Mask(dense=dense(predicate, batch or 1, num_queries, num_keys, device))


def sees(
    causal: bool, window: int | None, documents: Tensor | None, key_documents: Tensor | None, offset: int = 0
) -> Predicate:
    """The predicate of `build_mask`; `offset` is the position of the first query."""

    def predicate(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        position = query + offset
        seen = (key <= position) if causal else (key >= 0)
        if window is not None:
            seen = seen & ((position - key).abs() < window)
        if documents is not None and key_documents is not None:
            seen = seen & (documents[batch, query] == key_documents[batch, key])
        return seen

    return predicate


def dense(
    predicate: Predicate, batch: int, num_queries: int, num_keys: int, device: torch.device
) -> Bool[Tensor, "B 1 T S"]:
    """The predicate written out: True where a query may look."""
    batches = torch.arange(batch, device=device)[:, None, None, None]
    queries = torch.arange(num_queries, device=device)[:, None]
    keys = torch.arange(num_keys, device=device)
    return predicate(batches, torch.zeros_like(batches), queries, keys).expand(
        batch, 1, num_queries, num_keys
    )


def positions_of(tokens: Int[Tensor, "B T"], documents: Int[Tensor, "B T"] | None) -> Int[Tensor, "*B T"]:
    """Positions (T), or (B T) that start anew with each document: [7 7 7 9 9] -> [0 1 2 0 1]."""
    if documents is None:
        return torch.arange(tokens.shape[1], device=tokens.device)
    index = torch.arange(documents.shape[1], device=documents.device).expand_as(documents)
    begins = torch.ones_like(documents, dtype=torch.bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return index - torch.where(begins, index, 0).cummax(dim=1).values
