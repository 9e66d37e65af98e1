import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.artifacts.errors import UserError
from groundup.evaluate import ScoredDocument, sample_validation_documents, score_documents, score_text, score_windows
from groundup.evaluate.likelihood import _split_windows
from groundup.evaluate.masked_lm import score_masked
from groundup.tokenizer import TokenShard
from groundup.tokenizer.token_shards import ShardWriter


def reference_nats(model, ids, context, window, stride):
    """Negative log likelihood with one forward pass per token, over the context of its window."""
    nats, end = 0.0, window + 1
    for position in range(context, len(ids)):
        if context == 1:
            while position >= end:
                end += stride
        begin = max(0, min(end, len(ids)) - window - 1)
        logits = model(torch.tensor([ids[begin:position]])).logits[0, -1].double()
        nats -= logits.log_softmax(0)[ids[position]].item()
    return nats


@settings(deadline=None)
@given(
    st.integers(2, 200).flatmap(lambda length: st.tuples(st.just(length), st.integers(1, length - 1))),
    st.integers(1, 40).flatmap(lambda window: st.tuples(st.just(window), st.integers(1, window))),
)
def test_every_token_is_scored_once_with_context(lengths, windows):
    (length, context), (window, stride) = lengths, windows
    scored_windows = list(
        _split_windows(0, ScoredDocument(range(length), 1, num_context_tokens=context), window, stride)
    )
    positions = [position for scored in scored_windows for position in range(scored.first_scored, scored.end)]
    assert positions == list(range(context, length))
    for scored in scored_windows:
        assert scored.begin >= 0
        assert scored.end - scored.begin - 1 <= window
    for scored in scored_windows[1:]:
        assert scored.first_scored - scored.begin > window - stride


@pytest.mark.parametrize(("window", "stride"), [(48, 24), (16, 8), (16, 16), (10, 3)])
@torch.no_grad()
def test_equals_one_token_at_a_time(untrained, window, stride):
    ids = torch.randint(0, 320, (60,), generator=torch.Generator().manual_seed(1)).tolist()
    result = score_documents(untrained, [ScoredDocument(ids, 100)], window=window, stride=stride)
    assert result.nats == pytest.approx(reference_nats(untrained, ids, 1, window, stride), rel=1e-5)
    assert result.tokens == 59


class CountingTask:
    """A progress task that counts."""

    done = 0

    def advance(self, amount: int) -> None:
        self.done += amount


def test_progress_ends_at_the_number_of_scored_tokens(untrained):
    task = CountingTask()
    documents = [ScoredDocument(list(range(60)), 100), ScoredDocument(list(range(9)), 20, num_context_tokens=3)]
    score_documents(untrained, documents, window=16, stride=8, progress=task)
    assert task.done == sum(document.num_scored_tokens for document in documents)


@torch.no_grad()
def test_equals_the_training_loss_of_a_short_document(untrained):
    ids = list(range(40))
    result = score_documents(untrained, [ScoredDocument(ids, 80)])
    tokens = torch.tensor([ids])
    assert result.loss == pytest.approx(untrained(tokens, labels=tokens).loss.item(), rel=1e-5)
    assert result.perplexity == pytest.approx(math.exp(result.loss))
    assert result.bits_per_byte == pytest.approx(result.nats / math.log(2) / 80)


def test_score_of_a_document_is_independent_of_its_batch(untrained):
    """Padding does not change the score of documents of different lengths."""
    generator = torch.Generator().manual_seed(2)
    lengths = [2, 90, 3, 47, 48, 49, 50, 120]
    documents = [
        ScoredDocument(torch.randint(0, 320, (n,), generator=generator).tolist(), n, "ab"[n % 2]) for n in lengths
    ]
    batch = score_documents(untrained, documents)
    for index, document in enumerate(documents):
        assert batch.document_nats[index] == pytest.approx(score_documents(untrained, [document]).nats, rel=1e-5)
    parts = batch.by_source()
    assert list(parts) == ["a", "b"]
    assert sum(part.tokens for part in parts.values()) == batch.tokens == sum(lengths) - len(lengths)
    assert math.fsum(part.nats for part in parts.values()) == pytest.approx(batch.nats)


@torch.no_grad()
@settings(max_examples=5, deadline=None)
@given(st.integers(1, 30))
def test_context_tokens_are_not_scored(untrained, context):
    ids = list(range(31))
    result = score_documents(untrained, [ScoredDocument(ids, 10, num_context_tokens=context)])
    assert result.nats == pytest.approx(reference_nats(untrained, ids, context, 48, 24), rel=1e-5)


def test_model_mode_is_restored(untrained):
    untrained.train()
    score_documents(untrained, [ScoredDocument([1, 2, 3], 3)])
    assert untrained.training
    untrained.eval()
    score_documents(untrained, [ScoredDocument([1, 2, 3], 3)])
    assert not untrained.training


def test_scoring_nothing_is_a_user_error(untrained, tokenizer):
    with pytest.raises(UserError, match="no documents"):
        score_documents(untrained, [])
    with pytest.raises(UserError, match="3 characters cannot be scored"):
        score_text(untrained, tokenizer, " \n ")
    with pytest.raises(UserError, match="0 characters cannot be scored"):
        score_text(untrained, tokenizer, "")
    with pytest.raises(UserError, match="Linear does not define"):
        score_documents(torch.nn.Linear(2, 2), [ScoredDocument([1, 2], 1)])
    with pytest.raises(ValueError, match="context"):
        ScoredDocument([1], 1)


def test_text_is_scored_after_an_end_of_text(untrained, tokenizer):
    text = "The river went to the garden. Größe 東京!"
    found = score_text(untrained, tokenizer, text)
    ids = [tokenizer.eos_id, *tokenizer.encode(text)]
    assert found["tokens"] == len(ids) - 1
    assert found["bytes"] == len(text.encode())
    assert found["loss"] * found["tokens"] == pytest.approx(reference_nats(untrained, ids, 1, 48, 24), rel=1e-5)


def test_validation_documents_are_whole(shards, tokenizer, monkeypatch):
    shard = TokenShard(shards / "validation")
    documents = sample_validation_documents(shard, tokenizer, max_tokens=10**9, seed=1)
    assert sum(document.bytes for document in documents) == shard.bytes
    assert sum(document.num_scored_tokens for document in documents) == shard.num_tokens - shard.num_documents
    assert all(document.ids[0] == shard.end_of_text for document in documents)
    counts = {name: sum(d.bytes for d in documents if d.source == name) for name in shard.sources}
    assert counts == {name: facts["bytes"] for name, facts in shard.sources.items()}
    few = sample_validation_documents(shard, tokenizer, max_tokens=500, seed=1)
    assert {tuple(d.ids) for d in few} <= {tuple(d.ids) for d in documents}
    assert {d.source for d in few} == {d.source for d in documents}
    assert sum(d.num_scored_tokens for d in few[:-1]) < 500 <= sum(d.num_scored_tokens for d in few)
    monkeypatch.setattr("groundup.evaluate.validation_documents.DOCUMENT_TOKENS", 50)
    cut = sample_validation_documents(shard, tokenizer, max_tokens=10**9, seed=1)
    assert 197 <= max(document.bytes for document in cut) <= 200  # to a character boundary


def test_score_windows(untrained, trained, shards):
    shard = TokenShard(shards / "validation")
    whole = score_windows(untrained, shard, 48, max_tokens=10**9)
    assert whole.tokens == shard.num_tokens // 49 * 48
    assert whole.bytes == pytest.approx(shard.bytes * whole.tokens / shard.num_tokens)
    assert whole.loss == pytest.approx(math.log(320), rel=0.1)
    assert score_windows(trained, shard, 48, max_tokens=1000).loss < 0.5 * whole.loss
    assert score_windows(untrained, shard, 48, max_tokens=1).tokens == 48


def test_empty_validation_shard_is_a_user_error(untrained, tokenizer, tmp_path):
    identity = {"vocab_size": tokenizer.vocab_size, "tokenizer": tokenizer.fingerprint, "end_of_text": 0}
    with ShardWriter(tmp_path, "validation", **identity) as writer:
        writer.finish()
    shard = TokenShard(tmp_path / "validation")
    for score in (
        lambda: score_windows(untrained, shard, 48, max_tokens=100),
        lambda: sample_validation_documents(shard, tokenizer, max_tokens=100, seed=0),
        lambda: score_masked(untrained, lambda tokens, generator: {}, shard, 0, max_tokens=100, seed=0),
    ):
        with pytest.raises(UserError, match=r"no document was held out.*data\.validation_fraction"):
            score()
