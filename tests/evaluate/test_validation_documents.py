"""Held-out documents of several sources."""

import numpy as np

from groundup.evaluate import sample_validation_documents
from groundup.tokenizer import ShardWriter, TokenShard


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
