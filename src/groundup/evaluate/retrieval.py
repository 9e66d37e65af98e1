"""Retrieval: whether the second half of a passage of held-out text is the nearest of all second halves to its first half.

The baseline without a neural network is the cosine of TF-IDF vectors of words (Salton & Buckley 1988).
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


def score_retrieval(model: nn.Module, tokenizer: Tokenizer, shard: TokenShard) -> dict[str, Any] | None:
    """{"accuracy", "tf_idf", "chance", "passages"}: how often the right half comes first; None with fewer than two passages."""
    passages = split_passages(shard, tokenizer, min(HALF_TOKENS, int(model.config.context_length)))  # type: ignore[union-attr, arg-type]
    if len(passages) < 2:
        return None
    firsts, seconds = ([passage[side] for passage in passages] for side in (0, 1))
    vectors = embed_texts(model, tokenizer, firsts + seconds)
    words = tf_idf_vectors(firsts + seconds)
    return {
        "accuracy": first_rank_accuracy(*vectors.chunk(2)),
        "tf_idf": first_rank_accuracy(*words.chunk(2)),
        "chance": 1 / len(passages),
        "passages": len(passages),
    }


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


def first_rank_accuracy(queries: Float[Tensor, "N D"], vectors: Float[Tensor, "N D"]) -> float:
    """The fraction of queries whose nearest vector is the one of the same row."""
    nearest = (queries @ vectors.T).argmax(dim=1)
    return (nearest == torch.arange(len(queries))).double().mean().item()


def tf_idf_vectors(texts: Sequence[str]) -> Float[Tensor, "N V"]:
    """Normalized counts of words, weighted by the logarithm of the inverse document frequency."""
    counts = [Counter(re.findall(r"\w+", text.lower())) for text in texts]
    frequency = Counter(word for counter in counts for word in counter)
    columns = {word: column for column, word in enumerate(frequency)}
    vectors = torch.zeros(len(texts), max(1, len(columns)))
    for row, counter in enumerate(counts):
        for word, count in counter.items():
            vectors[row, columns[word]] = count * math.log(len(texts) / frequency[word])
    return nn.functional.normalize(vectors, dim=1)
