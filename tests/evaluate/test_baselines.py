import math
from itertools import pairwise

import numpy as np
import pytest

from groundup.evaluate import ScoredDocument, sample_validation_documents
from groundup.evaluate.baselines import compression_baselines, ngram_baselines
from groundup.tokenizer import TokenShard


def test_ngram_baselines_equal_dictionary_counts(shards):
    """The same formulas, one token at a time with dictionaries."""
    shard = TokenShard(shards / "train")
    ids = shard.tokens.tolist()
    document = ScoredDocument([0, *ids[:30], 7, 8], bytes=50)
    singles = np.bincount(ids, minlength=shard.vocab_size)
    pairs: dict[tuple[int, int], int] = {}
    for pair in pairwise(ids):
        pairs[pair] = pairs.get(pair, 0) + 1
    unigram = bigram = 0.0
    for before, after in pairwise(document.ids):
        p_unigram = (singles[after] + 1) / (len(ids) + shard.vocab_size)
        followers = {b: n for (a, b), n in pairs.items() if a == before}
        total = sum(followers.values())
        p_bigram = (
            (followers.get(after, 0) + len(followers) * p_unigram) / (total + len(followers)) if total else p_unigram
        )
        unigram -= math.log2(p_unigram)
        bigram -= math.log2(p_bigram)
    found = ngram_baselines(shard, [document])
    assert found["unigram"] == pytest.approx(unigram / 50)
    assert found["bigram"] == pytest.approx(bigram / 50)


def test_bigram_beats_unigram(shards, tokenizer):
    documents = sample_validation_documents(TokenShard(shards / "validation"), tokenizer, max_tokens=5000, seed=0)
    found = ngram_baselines(TokenShard(shards / "train"), documents)
    assert found["bigram"] < 0.7 * found["unigram"]


def test_large_shard_is_sampled_evenly(shards, tokenizer, monkeypatch):
    shard = TokenShard(shards / "train")
    full = ngram_baselines(shard, [ScoredDocument(shard.tokens[:500], 1000)])
    monkeypatch.setattr("groundup.evaluate.baselines.COUNTED_TOKENS", 4000)
    monkeypatch.setattr("groundup.evaluate.baselines.SPAN_TOKENS", 100)
    sampled = ngram_baselines(shard, [ScoredDocument(shard.tokens[:500], 1000)])
    assert sampled != full
    assert sampled["unigram"] == pytest.approx(full["unigram"], rel=0.05)


def test_compression_of_repetition_and_noise():
    noise = np.random.default_rng(0).bytes(20_000)
    assert all(8 <= bits < 8.2 for bits in compression_baselines(noise).values())
    assert all(bits < 0.2 for bits in compression_baselines(b"the same again " * 2000).values())
