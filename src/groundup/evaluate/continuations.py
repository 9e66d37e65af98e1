"""Likelihood of continuations of contexts, and whether greedy decoding would give them."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from groundup.evaluate.likelihood import HEAD_TOKENS
from groundup.model import Decoder

BATCH_TOKENS = 4_096
"""Tokens in one forward pass, padding included."""

CACHED_TOKENS = 16_384
"""Tokens in the cache of continuations that share a context, each with a copy of it."""

Pair = tuple[Sequence[int] | np.ndarray, Sequence[int] | np.ndarray]
"""Tokens of a context and of its continuation; at least one of each."""


class ContinuationScore(NamedTuple):
    """`logprob` is the log-probability of the whole continuation in nats; `is_greedy`: each of its tokens is the likeliest."""

    logprob: float
    is_greedy: bool


@torch.no_grad()
def score_continuations(model: Decoder, pairs: Sequence[Pair], progress: Any = None) -> list[ContinuationScore]:
    """The score of each continuation given its context.

    A context that several continuations share is read once, or once for each `CACHED_TOKENS`; pairs of similar length are in
    one batch. A pair that is longer than the model's context keeps its last tokens.

    Args:
        progress: a progress task, advanced by pairs.

    >>> score_continuations(model, [(tokenizer.encode("The sky is"), tokenizer.encode(" blue"))])
    """
    limit = model.config.cached_context_length
    scores: list[ContinuationScore | None] = [None] * len(pairs)
    by_context: dict[tuple[int, ...], list[int]] = {}
    for index, (context, _) in enumerate(pairs):
        by_context.setdefault(tuple(map(int, context)), []).append(index)
    alone: list[int] = []
    was_training = model.training
    model.eval()
    for context, indices in by_context.items():
        longest = max(len(pairs[index][1]) for index in indices)
        if len(indices) == 1 or len(context) + longest > limit:
            alone += indices
            continue
        count = max(1, CACHED_TOKENS // (len(context) + longest))
        for part in (indices[begin : begin + count] for begin in range(0, len(indices), count)):
            found = _score_of_shared(model, context, [pairs[index][1] for index in part])
            for index, score in zip(part, found, strict=True):
                scores[index] = score
            if progress is not None:
                progress.advance(len(part))
    for batch in _batches(pairs, alone):
        for index, score in zip(batch, _score_batch(model, [pairs[index] for index in batch], limit), strict=True):
            scores[index] = score
        if progress is not None:
            progress.advance(len(batch))
    model.train(was_training)
    return [score for score in scores if score is not None]


def _batches(pairs: Sequence[Pair], indices: list[int]) -> Iterator[list[int]]:
    """Indices of pairs of similar length, longest first, so that an out-of-memory error comes at once."""
    lengths = {index: sum(map(len, pairs[index])) for index in indices}
    batch: list[int] = []
    for index in sorted(indices, key=lambda index: -lengths[index]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _score_of_shared(
    model: Decoder, context: Sequence[int], endings: Sequence[Sequence[int] | np.ndarray]
) -> list[ContinuationScore]:
    """Of several continuations of one context, which is read once."""
    device = next(model.parameters()).device
    longest = max(map(len, endings))
    cache = model.new_cache(1, len(context) + longest)
    last = model.hidden_states(torch.tensor([list(context)], device=device), cache=cache)[:, -1:]
    cache.select_rows(torch.zeros(len(endings), dtype=torch.long, device=device))
    labels = _pad(endings, longest).to(device)
    hidden = last.expand(len(endings), -1, -1)
    if longest > 1:
        hidden = torch.cat([hidden, model.hidden_states(labels[:, :-1].clamp(min=0), cache=cache)], dim=1)
    return _scores(model, hidden, labels)


def _score_batch(model: Decoder, pairs: Sequence[Pair], limit: int) -> list[ContinuationScore]:
    """Of pairs with contexts of their own, padded on the right."""
    device = next(model.parameters()).device
    rows = [([*context, *ending][-limit - 1 :], len(ending)) for context, ending in pairs]
    longest = max(len(ids) for ids, _ in rows) - 1
    tokens = _pad([ids[:-1] for ids, _ in rows], longest).clamp(min=0)
    labels = _pad([[-1] * max(0, len(ids) - 1 - count) + ids[1:][-count:] for ids, count in rows], longest)
    return _scores(model, model.hidden_states(tokens.to(device)), labels.to(device))


def _pad(rows: Sequence[Sequence[int] | np.ndarray], length: int) -> Int[Tensor, "B T"]:
    """Rows with -1 on the right."""
    padded = torch.full((len(rows), length), -1, dtype=torch.long)
    for row, ids in enumerate(rows):
        padded[row, : len(ids)] = torch.from_numpy(np.asarray(ids, dtype=np.int64))
    return padded


def _scores(model: Decoder, hidden: Float[Tensor, "B T D"], labels: Int[Tensor, "B T"]) -> list[ContinuationScore]:
    """From the hidden state before each label; -1 is no label."""
    counted = labels >= 0
    states, targets, rows = hidden[counted], labels[counted], counted.nonzero()[:, 0]
    sums, misses = torch.zeros(2, len(labels), dtype=torch.float64, device=labels.device)
    for begin in range(0, len(targets), HEAD_TOKENS):
        part = slice(begin, begin + HEAD_TOKENS)
        logits = model.logits(states[part]).float()
        sums.index_add_(0, rows[part], F.cross_entropy(logits, targets[part], reduction="none").double())
        misses.index_add_(0, rows[part], (logits.argmax(1) != targets[part]).double())
    return [ContinuationScore(-each, miss == 0) for each, miss in zip(sums.tolist(), misses.tolist(), strict=True)]
