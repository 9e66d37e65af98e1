"""Contrastive fine-tuning for search: a query is near its text, and far from the other texts of the batch.

The loss is InfoNCE with in-batch negatives (van den Oord et al. 2018; Karpukhin et al. 2020, DPR), on cosine similarities
divided by a temperature: the cross-entropy of the right text among all texts of the batch.
"""

from collections.abc import Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.evaluate.retrieval import first_rank_accuracy
from groundup.finetune.chat_batches import MIN_SEQUENCE_LENGTH, batches_by_length, grouped_steps, shuffled_rows
from groundup.generate.text_embedding import embed_texts, encode_for_embedding, pad_ids, pool_tokens
from groundup.model.token_weights import get_token_weights, inverse_frequency_weights, set_token_weights
from groundup.tokenizer import Tokenizer
from groundup.train.objectives import Batch, Objective

SAMPLED_PAIRS, COUNTED_PAIRS = 200, 5_000
"""Pairs whose lengths give the size of a batch, and which are searched; pairs whose tokens are counted for their weights."""


@runtime_checkable
class TextPairs(Protocol):
    """Pairs of a query and its text; they may differ between epochs."""

    def __len__(self) -> int: ...
    def pair(self, index: int, epoch: int) -> tuple[str, str]: ...


class FixedPairs:
    """A list of pairs."""

    def __init__(self, pairs: Sequence[tuple[str, str]]):
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def pair(self, index: int, epoch: int) -> tuple[str, str]:
        return self.pairs[index]


def choose_token_weights(model: nn.Module, tokenizer: Tokenizer, pairs: TextPairs) -> bool:
    """Weight the tokens of `model` by their frequency in `pairs`, if the right texts are nearest more often then.

    That is so for models which were trained little; those that embed texts well already have learnt what counts.
    """
    sample = [pairs.pair(index, 0) for index in _evenly(len(pairs), COUNTED_PAIRS)]
    ids = [token for pair in sample for row in encode_for_embedding(model, tokenizer, pair)[0] for token in row]
    counts = torch.bincount(torch.tensor(ids), minlength=int(model.config.vocab_size))  # type: ignore[union-attr, arg-type]
    searched = [sample[index] for index in _evenly(len(sample), SAMPLED_PAIRS)]
    known, found = get_token_weights(model), _share_found(model, tokenizer, searched)
    set_token_weights(model, inverse_frequency_weights(counts))
    if _share_found(model, tokenizer, searched) <= found:
        set_token_weights(model, known)
    return get_token_weights(model) is not None


def _share_found(model: nn.Module, tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]]) -> float:
    queries, texts = zip(*pairs, strict=True)
    vectors = embed_texts(model, tokenizer, [*queries, *texts])
    return first_rank_accuracy(vectors[: len(pairs)] @ vectors[len(pairs) :].T, torch.arange(len(pairs)))


def _evenly(count: int, limit: int) -> range:
    """At most `limit` indices below `count`, evenly spaced."""
    return range(0, count, -(-count // limit))


class ContrastiveBatches:
    """Batches of pairs, whose texts have similar lengths; a pure function of (seed, step).

    A batch is one row of all tensors: micro-batches would have fewer negatives.

    Attributes:
        num_rows: pairs in one epoch.
        batch_rows: pairs in one batch: as many as have `batch_tokens` tokens on average, at least 2.
        sequence_length: mean tokens of a pair.
    """

    def __init__(self, pairs: TextPairs, model: nn.Module, tokenizer: Tokenizer, batch_tokens: int, seed: int):
        self.pairs, self.model, self.tokenizer, self.seed = pairs, model, tokenizer, seed
        self.num_rows = len(pairs)
        sampled = [pairs.pair(index, 0) for index in _evenly(len(pairs), SAMPLED_PAIRS)]
        tokens = sum(len(ids) for pair in sampled for ids in self._encode(pair))
        self.sequence_length = max(MIN_SEQUENCE_LENGTH, round(tokens / len(sampled)))
        self.batch_rows = min(max(2, batch_tokens // self.sequence_length), self.num_rows)
        self._group: tuple[int, list[list[tuple[str, str]]]] = (-1, [])

    def batch(self, step: int) -> Batch:
        """`tokens` and `query_tokens` (1 N T), `lengths` and `query_lengths` (1 N), and `groups` (1 N), equal for equal texts."""
        size = grouped_steps(self.num_rows, self.batch_rows)
        group, position = divmod(step, size)
        if self._group[0] != group:
            rows = shuffled_rows(group, size * self.batch_rows, self.num_rows, self.seed)
            pairs = [self.pairs.pair(index, epoch) for epoch, index in rows]
            order = batches_by_length([len(text) for _, text in pairs], size, self.seed, group)
            self._group = (group, [[pairs[index] for index in batch] for batch in order])
        return self._tensors(self._group[1][position])

    def first_epoch(self) -> list[Batch]:
        """Every pair once, in order: for validation. A last batch of one pair, which has no negatives, is left out."""
        pairs = [self.pairs.pair(index, 0) for index in range(self.num_rows)]
        batches = (pairs[begin : begin + self.batch_rows] for begin in range(0, self.num_rows, self.batch_rows))
        return [self._tensors(batch) for batch in batches if len(batch) > 1]

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        return encode_for_embedding(self.model, self.tokenizer, texts)[0]

    def _tensors(self, pairs: Sequence[tuple[str, str]]) -> Batch:
        queries, texts = zip(*pairs, strict=True)
        tokens, lengths = pad_ids(self._encode(texts))
        query_tokens, query_lengths = pad_ids(self._encode(queries))
        first: dict[str, int] = {}
        groups = torch.tensor([first.setdefault(text, index) for index, text in enumerate(texts)])
        batch = {"tokens": tokens, "lengths": lengths, "query_tokens": query_tokens, "query_lengths": query_lengths}
        return {name: tensor[None] for name, tensor in (batch | {"groups": groups}).items()}


def contrastive_objective(temperature: float) -> Objective:
    """InfoNCE of a batch of ContrastiveBatches."""
    return Objective(partial(contrastive_loss, temperature=temperature), lambda batch: batch["groups"].numel())


def contrastive_loss(model: nn.Module, batch: Batch, temperature: float) -> Tensor:
    """Mean InfoNCE of the queries, in nats."""
    queries = pool_tokens(model, batch["query_tokens"][0], batch["query_lengths"][0])
    texts = pool_tokens(model, batch["tokens"][0], batch["lengths"][0])
    return info_nce(queries, texts, temperature, batch["groups"][0])


def info_nce(
    queries: Float[Tensor, "N D"], texts: Float[Tensor, "N D"], temperature: float, groups: Int[Tensor, " N"]
) -> Float[Tensor, ""]:
    """Mean cross-entropy of text i among all texts for query i; other texts of its group are no negatives."""
    similarity = nn.functional.normalize(queries, dim=1) @ nn.functional.normalize(texts, dim=1).T
    own = torch.arange(len(groups), device=groups.device)
    repeated = (groups[:, None] == groups) & (own[:, None] != own)
    return nn.functional.cross_entropy((similarity / temperature).masked_fill(repeated, float("-inf")), own)
