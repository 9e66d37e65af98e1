"""Retrieval: whether the nearest of all texts to a query is the right one, beside search by words.

Without pairs of queries and texts, the second half of each passage of held-out text is to be found from its first half. The
baselines without a neural network are BM25 (Robertson & Zaragoza 2009) and the cosine of TF-IDF vectors (Salton & Buckley 1988).
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from groundup.generate import embed_texts
from groundup.tokenizer import Tokenizer, TokenShard

MAX_PASSAGES = 500
HALF_TOKENS = 64
MIN_HALF_TOKENS = 16
"""Shorter ends of documents are left out."""
BM25_K1, BM25_B = 1.2, 0.75
"""Saturation of the count of a word, and the influence of the length of a text."""


def score_retrieval(model: nn.Module, tokenizer: Tokenizer, shard: TokenShard) -> dict[str, Any] | None:
    """`score_pairs` of the halves of held-out passages; None with fewer than two passages."""
    return score_pairs(model, tokenizer, split_passages(shard, tokenizer, half_tokens(model)))


def half_tokens(model: nn.Module) -> int:
    """Tokens of half a passage, at most."""
    return min(HALF_TOKENS, int(model.config.context_length))  # type: ignore[union-attr, arg-type]


def score_pairs(model: nn.Module, tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]]) -> dict[str, Any] | None:
    """How often the right text comes first for a query: {"accuracy", "bm25", "tf_idf", "chance", "passages"}.

    None with fewer than two different texts.
    """
    texts = list(dict.fromkeys(text for _, text in pairs))
    if len(texts) < 2:
        return None
    position = {text: index for index, text in enumerate(texts)}
    targets = torch.tensor([position[text] for _, text in pairs])
    queries = [query for query, _ in pairs]
    vectors, words = embed_texts(model, tokenizer, queries + texts), tf_idf_vectors(queries + texts)
    scores = {
        "accuracy": vectors[: len(queries)] @ vectors[len(queries) :].T,
        "bm25": bm25_scores(queries, texts),
        "tf_idf": words[: len(queries)] @ words[len(queries) :].T,
    }
    rates = {name: first_rank_accuracy(score, targets) for name, score in scores.items()}
    return {**rates, "chance": 1 / len(texts), "passages": len(pairs)}


def split_passages(shard: TokenShard, tokenizer: Tokenizer, half_tokens: int) -> list[tuple[str, str]]:
    """The two halves of each passage of at most 2 x `half_tokens` tokens, evenly spaced over the passages of the shard."""
    passages = []
    for index in range(shard.num_documents):
        ids = shard.document(index)[:-1].tolist()
        for begin in range(0, len(ids), 2 * half_tokens):
            passage = ids[begin : begin + 2 * half_tokens]
            half = len(passage) // 2
            if half >= min(MIN_HALF_TOKENS, half_tokens):
                passages.append((passage[:half], passage[half:]))
    count = min(MAX_PASSAGES, len(passages))
    chosen = (passages[len(passages) * number // count] for number in range(count))
    return [(tokenizer.decode(first), tokenizer.decode(second)) for first, second in chosen]


def first_rank_accuracy(scores: Float[Tensor, "N M"], targets: Tensor) -> float:
    """The fraction of rows whose highest score is in the column of `targets` (N)."""
    return (scores.argmax(dim=1) == targets).double().mean().item()


def bm25_scores(queries: Sequence[str], texts: Sequence[str]) -> Float[Tensor, "N M"]:
    """BM25 of each text for each query."""
    asked, counts = _count_words(queries), _count_words(texts)
    frequency = Counter(word for counter in counts for word in counter)
    columns = {word: column for column, word in enumerate(frequency)}
    mean_length = sum(counter.total() for counter in counts) / len(counts)
    weights = torch.zeros(len(texts), len(columns))
    for row, counter in enumerate(counts):
        damping = BM25_K1 * (1 - BM25_B + BM25_B * counter.total() / mean_length)
        for word, count in counter.items():
            rarity = math.log(1 + (len(texts) - frequency[word] + 0.5) / (frequency[word] + 0.5))
            weights[row, columns[word]] = rarity * count * (BM25_K1 + 1) / (count + damping)
    wanted = torch.zeros(len(queries), len(columns))
    for row, counter in enumerate(asked):
        for word in counter.keys() & columns.keys():
            wanted[row, columns[word]] = counter[word]
    return wanted @ weights.T


def tf_idf_vectors(texts: Sequence[str]) -> Float[Tensor, "N V"]:
    """Normalized counts of words, weighted by the logarithm of the inverse document frequency."""
    counts = _count_words(texts)
    frequency = Counter(word for counter in counts for word in counter)
    columns = {word: column for column, word in enumerate(frequency)}
    vectors = torch.zeros(len(texts), max(1, len(columns)))
    for row, counter in enumerate(counts):
        for word, count in counter.items():
            vectors[row, columns[word]] = count * math.log(len(texts) / frequency[word])
    return nn.functional.normalize(vectors, dim=1)


def _count_words(texts: Sequence[str]) -> list[Counter[str]]:
    return [Counter(re.findall(r"\w+", text.lower())) for text in texts]
