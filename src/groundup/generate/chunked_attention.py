"""Attention in which a query's result depends on the query, its keys and its values alone, bit for bit.

The keys are cut at fixed positions into chunks of `CHUNK`; a product of a tile of queries with one chunk is always of the same
shape. The largest score of a row is exact in any order. Sums inside a chunk are of fixed length; those of the chunks are added
as the leaves of a binary tree, by the number of the chunk. Chunks without a visible key add exact zeros, so that longer
sequences in the batch change nothing; nor does it matter which queries are computed together: one, or a part of a prompt.

The arithmetic is float32: products in bfloat16 would round the scores.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function_unary

from groundup.generate.fixed_shape_products import tile_size
from groundup.model.attention_mask import AttentionMask

CHUNK = 64
"""Keys of a chunk."""


def chunked_attention(
    query: Float[Tensor, "B H T K"],
    key: Float[Tensor, "B G S K"],
    value: Float[Tensor, "B G S Kv"],
    mask: AttentionMask,
    *,
    scale: float,
    cap: Callable[[Tensor], Tensor] | None = None,
    sinks: Float[Tensor, " H"] | None = None,
) -> Float[Tensor, "B H T Kv"]:
    """softmax(cap(scale * query key^T)) value; arguments as of `groundup.model.attention.eager_attention`."""
    if has_torch_function_unary(query):  # of batch_invariance.py, which does not concern the operations below
        return handle_torch_function(
            chunked_attention, (query,), query, key, value, mask, scale=scale, cap=cap, sinks=sinks
        )
    (H, T), (G, S) = query.shape[1:3], key.shape[1:3]
    keys, values = _chunks(key), _chunks(value)
    bias = mask.bias(T, S, query.new_empty(0, dtype=torch.float32))
    bias = F.pad(bias, (0, keys.shape[2] * CHUNK - S), value=-torch.inf)
    rows, biases = _rows(query.float() * scale, G), _rows(bias.expand(-1, H, T, -1), G)
    limits = None if sinks is None else _rows(sinks.float()[None, :, None, None].expand(1, H, T, 1), G)
    count, outputs = rows.shape[2], []
    size = _tile_size(count, query.shape[3], value.shape[3])
    padding = -count % size
    rows, biases = F.pad(rows, (0, 0, 0, padding)), F.pad(biases, (0, 0, 0, padding))
    limits = None if limits is None else F.pad(limits, (0, 0, 0, padding))
    for begin in range(0, count, size):
        tile, tile_bias = rows[:, :, begin : begin + size], biases[:, :, begin : begin + size]
        limit = None if limits is None else limits[:, :, begin : begin + size]
        used = _num_visible_chunks(tile_bias[:, :, : count - begin])
        outputs.append(
            _attend(tile, keys[:, :, :used], values[:, :, :used], tile_bias[..., : used * CHUNK], cap, limit)
        )
    mixed = (outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2))[:, :, :count]
    return mixed.unflatten(2, (T, H // G)).transpose(2, 3).flatten(1, 2).to(query.dtype)


def _attend(
    query: Float[Tensor, "B G M K"],
    keys: Float[Tensor, "B G n chunk K"],
    values: Float[Tensor, "B G n chunk Kv"],
    bias: Float[Tensor, "#B G M S"],
    cap: Callable[[Tensor], Tensor] | None,
    sinks: Float[Tensor, "1 G M 1"] | None,
) -> Float[Tensor, "B G M Kv"]:
    """Attention of one tile of rows."""
    shape, count = query.shape[:2], keys.shape[2]
    query = query[:, :, None].expand(-1, -1, count, -1, -1).flatten(0, 2).contiguous()
    scores = torch.bmm(query, keys.flatten(0, 2).contiguous().transpose(1, 2)).unflatten(0, (*shape, count))
    scores = (scores if cap is None else cap(scores)) + bias.unflatten(-1, (count, CHUNK)).transpose(2, 3)
    largest = scores.amax((2, 4), keepdim=True).clamp_(
        min=torch.finfo(scores.dtype).min
    )  # a row of padding sees no key
    weights = (scores - largest).exp()
    mixed = torch.bmm(weights.flatten(0, 2), values.flatten(0, 2).contiguous()).unflatten(0, (*shape, count))
    sums = tree_sum(weights.sum(-1, keepdim=True), dim=2)
    if sinks is not None:
        sums = sums + (sinks - largest[:, :, 0]).exp()
    return tree_sum(mixed, dim=2) / sums + 0.0  # no negative zero: its sign would tell of empty chunks


def tree_sum(parts: Float[Tensor, "..."], dim: int) -> Float[Tensor, "..."]:
    """The sum over `dim`: of neighbours, then of neighbouring sums and so on. Zeros at the end leave it as it is."""
    while parts.shape[dim] > 1:
        if parts.shape[dim] % 2:
            parts = torch.cat((parts, torch.zeros_like(parts.narrow(dim, 0, 1))), dim)
        pairs = parts.unflatten(dim, (-1, 2))
        parts = pairs.select(dim + 1, 0) + pairs.select(dim + 1, 1)
    return parts.select(dim, 0)


def _rows(x: Float[Tensor, "#B H T D"], key_heads: int) -> Float[Tensor, "#B G TH D"]:
    """The query heads of a key head, of one token after the other."""
    return x.unflatten(1, (key_heads, -1)).transpose(2, 3).flatten(2, 3)


def _chunks(states: Float[Tensor, "B G S K"]) -> Float[Tensor, "B G n chunk K"]:
    """Keys or values in float32, with zeros up to whole chunks."""
    padded = F.pad(states.float(), (0, 0, 0, -states.shape[2] % CHUNK))
    return padded.contiguous().unflatten(2, (-1, CHUNK))


def _num_visible_chunks(bias: Float[Tensor, "#B G M S"]) -> int:
    """Number of chunks up to the last key that a row sees."""
    seen = (bias > -torch.inf).flatten(0, 2).any(0).nonzero()
    return int(seen[-1]) // CHUNK + 1 if len(seen) else 1


def _tile_size(rows: int, key_width: int, value_width: int) -> int:
    """Rows of a tile of queries, for both products."""
    random = torch.Generator().manual_seed(0)
    keys, values = (torch.randn(1, CHUNK, width, generator=random) for width in (key_width, value_width))
    return min(
        tile_size(rows, lambda x: torch.bmm(x[None], keys.transpose(1, 2))[0], keys, ("scores", keys.shape)),
        tile_size(rows, lambda x: torch.bmm(x[None], values)[0], keys.transpose(1, 2), ("values", values.shape)),
    )
