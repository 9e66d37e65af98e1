"""Hiding tokens of a text, to be predicted: what an encoder and an encoder-decoder learn from, and are measured by.

Pure functions from rows of tokens to the arguments of `model(**batch)`: `tokens` and `labels`. Chance comes from a
generator alone, so that the batch of a step can be made again.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from groundup.model.loss import IGNORE_INDEX

ModelInputs = dict[str, Tensor]


def mask_random_tokens(
    tokens: Int[Tensor, "B T"],
    generator: torch.Generator,
    *,
    mask_id: int,
    vocab_size: int,
    special_ids: Sequence[int] = (),
    mask_rate: float = 0.15,
) -> ModelInputs:
    """Predict hidden tokens from those around them (BERT, Devlin et al. 2018, section 3.1).

    Of the chosen tokens 80% are shown as `mask_id`, 10% as a random token and 10% as they are, so that the
    model cannot tell which of the tokens that it sees are true. `special_ids` are never chosen.

    Args:
        rate: share of tokens to predict: 0.15 in BERT, 0.3 in ModernBERT.
    """
    chance = torch.rand(tokens.shape, generator=generator)
    chosen = (chance < mask_rate) & ~torch.isin(tokens, torch.tensor(list(special_ids), dtype=tokens.dtype))
    shown = torch.where(chosen & (chance < 0.8 * mask_rate), mask_id, tokens)
    other = torch.randint(vocab_size, tokens.shape, generator=generator)
    shown = torch.where(chosen & (chance >= 0.8 * mask_rate) & (chance < 0.9 * mask_rate), other, shown)
    return {"tokens": shown, "labels": tokens.masked_fill(~chosen, IGNORE_INDEX)}


def span_corruption(
    tokens: Int[Tensor, "B T"],
    generator: torch.Generator,
    *,
    sentinel_ids: Sequence[int],
    eos_id: int,
    mask_rate: float = 0.15,
    mean_length: float = 3.0,
) -> ModelInputs:
    """Predict spans that were cut out (T5, Raffel et al. 2020, section 3.1.4).

    "a b c d e f" without "b c" and "e" is read as "a <0> d <1> f" and answered by "<0> b c <1> e", both with
    `eos_id` behind. All rows have as many spans and hidden tokens, so the batch stays rectangular.

    Raises ValueError where there are fewer `sentinel_ids` than spans.
    """
    hidden = span_mask(
        tokens.shape[0], tokens.shape[1], generator, mask_rate=mask_rate, mean_length=mean_length
    )
    return {
        "tokens": _with_sentinels(tokens, hidden, sentinel_ids, eos_id),
        "labels": _with_sentinels(tokens, ~hidden, sentinel_ids, eos_id),
    }


def span_mask(
    batch_size: int, length: int, generator: torch.Generator, *, mask_rate: float, mean_length: float
) -> Bool[Tensor, "B T"]:
    """Which tokens are cut out: rate * length of them, in spans of `mean_length`, and never the first."""
    if length < 2:
        raise ValueError(
            f"found rows of {length} tokens, expected at least 2: one to cut out and one to keep"
        )
    num_hidden = min(max(round(length * mask_rate), 1), length - 1)
    num_spans = min(max(round(num_hidden / mean_length), 1), num_hidden, length - num_hidden)
    shown = _partition(batch_size, length - num_hidden, num_spans, generator)
    hidden = _partition(batch_size, num_hidden, num_spans, generator)
    lengths = torch.stack((shown, hidden), dim=2).flatten(1)  # in turn: shown, hidden, shown, hidden, ...
    begins = torch.zeros(batch_size, length + 1, dtype=torch.long).scatter_(1, lengths.cumsum(1), 1)[
        :, :length
    ]
    return begins.cumsum(1) % 2 == 1


def _partition(batch_size: int, total: int, parts: int, generator: torch.Generator) -> Int[Tensor, "B parts"]:
    """`total` cut at random into `parts` numbers above zero, all cuts equally likely."""
    places = torch.rand(batch_size, total - 1, generator=generator).argsort(dim=1)[:, : parts - 1] + 1
    cuts = places.sort(dim=1).values
    ends = torch.cat(
        (torch.zeros(batch_size, 1, dtype=torch.long), cuts, torch.full((batch_size, 1), total)), dim=1
    )
    return ends.diff(dim=1)


def _with_sentinels(
    tokens: Int[Tensor, "B T"], masked: Bool[Tensor, "B T"], sentinel_ids: Sequence[int], eos_id: int
) -> Int[Tensor, "B S"]:
    """Each run of hidden tokens becomes one sentinel, and `eos_id` ends the row."""
    first = masked.clone()
    first[:, 1:] &= ~masked[:, :-1]
    number = first.cumsum(dim=1) - 1
    if int(number.max()) >= len(sentinel_ids):
        raise ValueError(
            f"found {len(sentinel_ids)} sentinel_ids, expected {int(number.max()) + 1}: one for each span"
        )
    sentinels = torch.tensor(list(sentinel_ids), dtype=tokens.dtype)
    marked = torch.where(first, sentinels[number.clamp(min=0)], tokens)
    kept = marked[first | ~masked].view(tokens.shape[0], -1)
    return torch.cat((kept, torch.full_like(kept[:, :1], eos_id)), dim=1)
