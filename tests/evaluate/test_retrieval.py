"""Retrieval of halves of passages, and search by words."""

import math

import pytest
import torch

from groundup.evaluate.retrieval import (
    bm25_scores,
    first_rank_accuracy,
    score_pairs,
    score_retrieval,
    split_passages,
    tf_idf_vectors,
)
from groundup.model import build_model
from groundup.recipe import ModelConfig
from groundup.tokenizer import TokenShard, write_token_shard
from groundup.tokenizer.tokenizer_training import train_bpe


@pytest.fixture
def shard(tmp_path) -> TokenShard:
    texts = [f"{word} " * 8 + f"{word}! " * 8 for word in ("apple", "bread", "chair", "doors", "eagle")]
    write_token_shard(tmp_path / "validation", [*texts, "too short"], train_bpe([], 260))
    return TokenShard(tmp_path / "validation")


def test_halves_of_passages(shard):
    passages = split_passages(shard, train_bpe([], 260), half_tokens=40)
    assert len(passages) == 5, "each text has 104 bytes: a passage of 80; 24 are too short"
    assert passages[0][0].startswith("apple apple")


def test_tf_idf_finds_the_same_words_and_ignores_common_ones():
    vectors = tf_idf_vectors(["the cat", "the dog", "the cats and a cat", "the dogs, a dog"])
    similarity = vectors[:2] @ vectors[2:].T
    assert first_rank_accuracy(similarity, torch.tensor([0, 1])) == 1.0
    assert first_rank_accuracy(similarity, torch.tensor([1, 0])) == 0.0
    assert vectors[0] @ vectors[1] == 0


def encoder():
    torch.manual_seed(0)
    shape = {"vocab_size": 260, "hidden_size": 32, "num_layers": 1, "num_heads": 2, "context_length": 60}
    return build_model(ModelConfig(architecture="encoder", **shape)).eval()


def test_score_of_an_encoder(shard):
    scores = score_retrieval(encoder(), train_bpe([], 260), shard)
    assert scores is not None
    assert scores["passages"] == 5
    assert scores["chance"] == 0.2
    assert scores["tf_idf"] == scores["bm25"] == 1.0
    assert scores["accuracy"] > 0.5, "even random weights tell which letters occur"


def test_bm25_equals_the_formula():
    """Robertson & Zaragoza 2009, with k1 = 1.2, b = 0.75."""
    texts = ["the cat sat", "the dog and the cat", "a bird"]
    scores = bm25_scores(["cat the the", "unknown"], texts)
    rarity = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))  # both words are in two of three texts
    mean = 10 / 3

    def term(count: int, length: int) -> float:
        return rarity * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * length / mean))

    assert scores[0].tolist() == pytest.approx([3 * term(1, 3), term(1, 5) + 2 * term(2, 5), 0.0])
    assert scores[1].tolist() == [0.0, 0.0, 0.0]


def test_several_queries_may_ask_for_one_text():
    model, tokenizer = encoder(), train_bpe([], 260)
    scores = score_pairs(model, tokenizer, [("aaa bbb", "aaa"), ("bbb aaa", "aaa"), ("ccc", "ccc ddd")])
    assert scores is not None
    assert (scores["bm25"], scores["chance"], scores["passages"]) == (1.0, 0.5, 3)
    assert score_pairs(model, tokenizer, [("a", "b"), ("c", "b")]) is None
