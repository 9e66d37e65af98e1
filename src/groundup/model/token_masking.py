"""Masking of tokens to predict: masked-language modelling (BERT) and span corruption (T5).

Functions from token batches to keyword arguments of a model, `tokens` and `labels`. All randomness comes from the
generator, so that the batch of a step can be reproduced.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from groundup.model.loss import IGNORE_INDEX
from groundup.plan.shape.masked_spans import MASK_RATE, MEAN_SPAN_LENGTH, count_spans

ModelInputs = dict[str, Tensor]


def mask_random_tokens(
    tokens: Int[Tensor, "B T"],
    generator: torch.Generator,
    *,
    mask_id: int,
    vocab_size: int,
    special_ids: Sequence[int] = (),
    mask_rate: float = MASK_RATE,
) -> ModelInputs:
    """Masked-language modelling (BERT, Devlin et al. 2018, section 3.1).

    Of the chosen tokens, 80% are replaced by `mask_id`, 10% by a random token and 10% are unchanged. `special_ids` are
    never chosen.

    Args:
        mask_rate: fraction of tokens to predict: 0.15 in BERT, 0.3 in ModernBERT.
    """
    draw = torch.rand(tokens.shape, generator=generator)
    chosen = (draw < mask_rate) & ~torch.isin(tokens, torch.tensor(list(special_ids), dtype=tokens.dtype))
    inputs = torch.where(chosen & (draw < 0.8 * mask_rate), mask_id, tokens)
    random_tokens = torch.randint(vocab_size, tokens.shape, generator=generator)
    inputs = torch.where(chosen & (draw >= 0.8 * mask_rate) & (draw < 0.9 * mask_rate), random_tokens, inputs)
    return {"tokens": inputs, "labels": tokens.masked_fill(~chosen, IGNORE_INDEX)}


def span_corruption(
    tokens: Int[Tensor, "B T"],
    generator: torch.Generator,
    *,
    sentinel_ids: Sequence[int],
    eos_id: int,
    mask_rate: float = MASK_RATE,
    mean_length: float = MEAN_SPAN_LENGTH,
) -> ModelInputs:
    """Span corruption (T5, Raffel et al. 2020, section 3.1.4).

    "a b c d e f" with "b c" and "e" masked has the inputs "a <0> d <1> f" and the labels "<0> b c <1> e", both followed by
    `eos_id`. All rows have equally many spans and masked tokens, so the batch is rectangular.

    Raises ValueError for fewer `sentinel_ids` than spans.
    """
    masked = span_mask(tokens.shape[0], tokens.shape[1], generator, mask_rate=mask_rate, mean_length=mean_length)
    return {
        "tokens": _with_sentinels(tokens, masked, sentinel_ids, eos_id),
        "labels": _with_sentinels(tokens, ~masked, sentinel_ids, eos_id),
    }


def span_mask(
    batch_size: int, length: int, generator: torch.Generator, *, mask_rate: float, mean_length: float
) -> Bool[Tensor, "B T"]:
    """Masked positions: mask_rate * length of them, in spans of `mean_length` on average, never the first."""
    if length < 2:
        raise ValueError(f"sequences of {length} tokens, expected at least 2: one to mask and one to keep")
    num_masked, num_spans = count_spans(length, mask_rate, mean_length)
    unmasked = _partition(batch_size, length - num_masked, num_spans, generator)
    masked = _partition(batch_size, num_masked, num_spans, generator)
    lengths = torch.stack((unmasked, masked), dim=2).flatten(1)  # alternating
    begins = torch.zeros(batch_size, length + 1, dtype=torch.long).scatter_(1, lengths.cumsum(1), 1)[:, :length]
    return begins.cumsum(1) % 2 == 1


def _partition(batch_size: int, total: int, parts: int, generator: torch.Generator) -> Int[Tensor, "B parts"]:
    """`total` as a sum of `parts` positive numbers, all partitions equally likely."""
    order = torch.rand(batch_size, total - 1, generator=generator).argsort(dim=1)[:, : parts - 1] + 1
    bounds = order.sort(dim=1).values
    ends = torch.cat((torch.zeros(batch_size, 1, dtype=torch.long), bounds, torch.full((batch_size, 1), total)), dim=1)
    return ends.diff(dim=1)


def _with_sentinels(
    tokens: Int[Tensor, "B T"], masked: Bool[Tensor, "B T"], sentinel_ids: Sequence[int], eos_id: int
) -> Int[Tensor, "B S"]:
    """Each masked span is replaced by one sentinel; `eos_id` ends the row."""
    is_start = masked.clone()
    is_start[:, 1:] &= ~masked[:, :-1]
    span = is_start.cumsum(dim=1) - 1
    if int(span.max()) >= len(sentinel_ids):
        raise ValueError(f"{len(sentinel_ids)} sentinel_ids, expected {int(span.max()) + 1}: one per span")
    sentinels = torch.tensor(list(sentinel_ids), dtype=tokens.dtype)
    replaced = torch.where(is_start, sentinels[span.clamp(min=0)], tokens)
    result = replaced[is_start | ~masked].view(tokens.shape[0], -1)
    return torch.cat((result, torch.full_like(result[:, :1], eos_id)), dim=1)
