"""Held-out documents of several sources."""

import random
from pathlib import Path

import numpy as np

from groundup.evaluate import sample_validation_documents
from groundup.tokenizer import ShardWriter, Tokenizer, TokenShard
from groundup.tokenizer.tokenizer_training import train_bpe


def test_a_small_source_is_scored_beside_a_large_one(tokenizer, tmp_path):
    """Three short notes among 400 long pages: all three, and pages for the rest of the tokens."""
    texts = ["the river went to the garden and saw the stone " * 6] * 400 + ["a note"] * 3
    rows = [[*ids, tokenizer.eos_id] for ids in tokenizer.encode_batch(texts)]
    identity = {"vocab_size": tokenizer.vocab_size, "tokenizer": tokenizer.fingerprint, "end_of_text": 0}
    with ShardWriter(tmp_path, "validation", **identity) as writer:
        sizes = [len(text) for text in texts]
        writer.append(np.concatenate(rows), [len(row) for row in rows], ["pages"] * 400 + ["notes"] * 3, sizes)
        writer.commit(1)
        writer.finish()
    documents = sample_validation_documents(TokenShard(tmp_path / "validation"), tokenizer, max_tokens=1000, seed=0)
    sources = [document.source for document in documents]
    assert sources.count("notes") == 3
    assert sum(document.num_scored_tokens for document in documents) >= 1000
    assert len({tuple(document.ids) for document in documents if document.source == "pages"}) == 1


def test_long_documents_of_one_source_leave_tokens_to_the_others(tokenizer, tmp_path):
    """Twelve sources of documents that are each longer than a source's part: every source has a score."""
    texts, sources = [], []
    for source in range(12):
        texts += ["the river went to the garden and saw the stone " * 6] * 9
        sources += [f"source {source}"] * 9
    rows = [[*ids, tokenizer.eos_id] for ids in tokenizer.encode_batch(texts)]
    identity = {"vocab_size": tokenizer.vocab_size, "tokenizer": tokenizer.fingerprint, "end_of_text": 0}
    with ShardWriter(tmp_path, "validation", **identity) as writer:
        writer.append(np.concatenate(rows), [len(row) for row in rows], sources, [len(text) for text in texts])
        writer.commit(1)
        writer.finish()
    tokens = 4 * (len(rows[0]) - 1)
    documents = sample_validation_documents(TokenShard(tmp_path / "validation"), tokenizer, max_tokens=tokens, seed=0)
    assert {document.source for document in documents} == set(sources)


def test_runs_score_the_same_texts_whatever_their_order_and_tokenizer(tokenizer, tmp_path, monkeypatch):
    """Two seeds: documents in another order, and a tokenizer of another sample of the text."""
    monkeypatch.setattr("groundup.evaluate.validation_documents.DOCUMENT_TOKENS", 20)
    words = ["the", "river", "went", "garden", "and", "saw", "größe", "東京", "stone", "house", "moon", "table"]
    draw = random.Random(5)
    texts = [" ".join(draw.choices(words, k=draw.randint(5, 40))) for _ in range(60)]
    other = train_bpe(texts[:5], 300)

    def scored(words: Tokenizer, texts: list[str], folder: Path) -> list[str]:
        folder.mkdir()
        rows = [[*ids, words.eos_id] for ids in words.encode_batch(texts)]
        identity = {"vocab_size": words.vocab_size, "tokenizer": words.fingerprint, "end_of_text": words.eos_id}
        with ShardWriter(folder, "validation", **identity) as writer:
            sizes = [len(text.encode()) for text in texts]
            writer.append(np.concatenate(rows), [len(row) for row in rows], ["pages"] * len(texts), sizes)
            writer.commit(1)
            writer.finish()
        documents = sample_validation_documents(TokenShard(folder / "validation"), words, max_tokens=400, seed=0)
        return [words.decode(document.ids[1:]) for document in documents]

    first, second = scored(tokenizer, texts, tmp_path / "a"), scored(other, draw.sample(texts, 60), tmp_path / "b")
    shared = min(len(first), len(second))
    assert shared > 5
    assert first[:shared] == second[:shared]
