"""Likelihood of continuations of contexts, and whether greedy decoding would give them."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from groundup.evaluate.likelihood import HEAD_TOKENS
from groundup.evaluate.prefix_tree import PrefixRow, PrefixTreeBatch, has_prefix_trees, prefix_rows, single_row
from groundup.model import Decoder

BATCH_TOKENS = {"cpu": 1_024, "cuda": 32_768}
"""Tokens in one forward pass, padding included; on a CPU as many as its caches take."""

Pair = tuple[Sequence[int] | np.ndarray, Sequence[int] | np.ndarray]
"""Tokens of a context and of its continuation; at least one of each."""


class ContinuationScore(NamedTuple):
    """`logprob` is the log-probability of the whole continuation in nats; `is_greedy`: each of its tokens is the likeliest."""

    logprob: float
    is_greedy: bool


def score_continuations(model: Decoder, pairs: Sequence[Pair], progress: Any = None) -> list[ContinuationScore]:
    """The score of each continuation given its context.

    Args:
        progress: a progress task, advanced by pairs.

    >>> score_continuations(model, [(tokenizer.encode("The sky is"), tokenizer.encode(" blue"))])
    """
    scores: dict[int, ContinuationScore] = {}
    for batch in iter_continuation_scores(model, pairs):
        scores |= batch
        if progress is not None:
            progress.advance(len(batch))
    return [scores[index] for index in range(len(pairs))]


def iter_continuation_scores(model: Decoder, pairs: Sequence[Pair]) -> Iterator[dict[int, ContinuationScore]]:
    """The scores of batches of pairs, by the index of the pair.

    What pairs have in common at their beginning is read once (prefix_tree.py); rows of similar length are in one batch, and
    logits are computed where a continuation is predicted. A pair that is longer than the model's context keeps its last
    tokens.
    """
    limit, device = model.config.cached_context_length, next(model.parameters()).device
    sequences, endings = [], []
    for context, ending in pairs:
        ids = tuple(map(int, [*context, *ending][-limit - 1 :]))
        sequences.append(ids[:-1])
        endings.append(ids[1:][-len(ending) :])
    was_training = model.training
    model.eval()
    try:
        for rows in _batches(sequences, has_prefix_trees(model.config), BATCH_TOKENS[device.type]):
            with torch.no_grad():
                yield dict(_score_rows(model, rows, endings))
    finally:
        model.train(was_training)


def _batches(sequences: Sequence[tuple[int, ...]], shared: bool, max_tokens: int) -> Iterator[list[PrefixRow]]:
    """Rows of similar length, longest first, so that an out-of-memory error comes at once."""
    found = prefix_rows(sequences) if shared else map(single_row, *zip(*enumerate(sequences), strict=True))
    batch: list[PrefixRow] = []
    for row in sorted(found, key=lambda row: -len(row.tokens)):
        if batch and len(batch[0].tokens) * (len(batch) + 1) > max_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _score_rows(
    model: Decoder, rows: Sequence[PrefixRow], endings: Sequence[Sequence[int]]
) -> Iterator[tuple[int, ContinuationScore]]:
    """(index, score) of each sequence of the rows; a token before several continuations has one row of logits."""
    batch = PrefixTreeBatch(rows, next(model.parameters()).device)
    is_tree = any(len(row.paths) > 1 for row in rows)
    hidden = model.hidden_states(batch.tokens, cache=batch if is_tree else None).flatten(0, 1)
    predicted: list[tuple[int, int, int]] = []  # (index of the hidden state, label, index of the sequence)
    for number, row in enumerate(rows):
        for index, path in row.paths.items():
            labels = endings[index]
            nodes = (number * batch.num_tokens + node for node in path[-len(labels) :])
            predicted += [(node, label, index) for node, label in zip(nodes, labels, strict=True)]
    sums = {index: [0.0, True] for row in rows for index in row.paths}
    predicted.sort()
    for part in _split_by_node(predicted):
        nodes, labels, indices = zip(*part, strict=True)
        states, position = torch.tensor(nodes, device=hidden.device).unique_consecutive(return_inverse=True)
        logits = model.logits(hidden[states]).float()
        targets = torch.tensor(labels, device=hidden.device)
        logprobs = logits.log_softmax(1)[position, targets].double().tolist()
        greedy = _is_greedy(logits, position, targets).tolist()
        for index, logprob, is_greedy in zip(indices, logprobs, greedy, strict=True):
            sums[index] = [sums[index][0] + logprob, sums[index][1] and is_greedy]
    for index, (logprob, is_greedy) in sums.items():
        yield index, ContinuationScore(logprob, bool(is_greedy))


def _split_by_node(predicted: Sequence[tuple[int, int, int]]) -> Iterator[Sequence[tuple[int, int, int]]]:
    """Parts with at most HEAD_TOKENS different hidden states."""
    begin, count = 0, 0
    for end, (node, _, _) in enumerate(predicted):
        if end == begin or node != predicted[end - 1][0]:
            count += 1
        if count > HEAD_TOKENS:
            yield predicted[begin:end]
            begin, count = end, 1
    yield predicted[begin:]


def _is_greedy(
    logits: Float[Tensor, "N V"], position: Int[Tensor, " M"], targets: Int[Tensor, " M"]
) -> Bool[Tensor, " M"]:
    """Whether each target is the first of the likeliest tokens of its row; argmax is slow, and few rows need it."""
    likeliest = logits[position, targets] == logits.amax(1)[position]
    rows = position[likeliest]
    likeliest[likeliest.clone()] = logits[rows].argmax(1) == targets[likeliest]
    return likeliest
