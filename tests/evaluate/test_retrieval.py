"""Retrieval of halves of passages, and its TF-IDF baseline."""

import pytest
import torch

from groundup.evaluate.retrieval import first_rank_accuracy, score_retrieval, split_passages, tf_idf_vectors
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
    assert first_rank_accuracy(vectors[:2], vectors[2:]) == 1.0
    assert first_rank_accuracy(vectors[:2], vectors[2:].flip(0)) == 0.0
    assert vectors[0] @ vectors[1] == 0


def test_score_of_an_encoder(shard):
    torch.manual_seed(0)
    shape = {"vocab_size": 260, "hidden_size": 32, "num_layers": 1, "num_heads": 2, "context_length": 60}
    model = build_model(ModelConfig(architecture="encoder", **shape)).eval()
    scores = score_retrieval(model, train_bpe([], 260), shard)
    assert scores is not None
    assert scores["passages"] == 5
    assert scores["chance"] == 0.2
    assert scores["tf_idf"] == 1.0
    assert scores["accuracy"] > 0.5, "even random weights tell which letters occur"
