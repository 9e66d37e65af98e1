"""Likelihood of continuations, beside one forward pass for each."""

import pytest
import torch

from groundup.evaluate import ScoredDocument, continuations, prefix_tree, response_logprobs, score_documents
from groundup.evaluate.continuations import score_continuations
from groundup.generate import GREEDY, generate
from groundup.model import Decoder
from groundup.recipe import ModelConfig


def test_equals_one_pass_for_each(trained, tokenizer):
    """Shared and single contexts of many lengths; the harness's `is_greedy` is that of greedy decoding."""
    contexts = [tokenizer.encode(text) for text in ("The river", "The river went to the garden and", "stone", "The")]
    endings = [tokenizer.encode(text) for text in (" saw the stone.", " the", " zzz qqq")]
    greedy = [generate(trained, context, sampling=GREEDY, max_tokens=3) for context in contexts]
    pairs = (
        [(contexts[0], each) for each in endings]
        + [(contexts[1], endings[0])]
        + list(zip(contexts, greedy, strict=True))
    )
    for (context, ending), score in zip(pairs, score_continuations(trained, pairs), strict=True):
        assert score.logprob == pytest.approx(response_logprobs(trained, context, ending).sum().item(), abs=1e-4)
        assert score.is_greedy == (generate(trained, context, sampling=GREEDY, max_tokens=len(ending)) == list(ending))
    assert all(score.is_greedy for score in score_continuations(trained, pairs[-4:]))


def test_what_exceeds_the_context_keeps_its_end(trained):
    """As in lm-evaluation-harness: the last tokens of context and continuation, one label more than the context holds."""
    torch.manual_seed(0)
    limit = trained.config.context_length
    ids = torch.randint(1, 300, (3 * limit,)).tolist()
    pairs = [(ids[:-5], ids[-5:]), (ids[:-5], ids[-6:-1])]
    for (context, ending), score in zip(pairs, score_continuations(trained, pairs), strict=True):
        kept = [*context, *ending][-limit - 1 :]
        document = ScoredDocument(kept, 1, num_context_tokens=len(kept) - 5)
        assert -score.logprob == pytest.approx(score_documents(trained, [document]).nats, abs=1e-4)


def test_memory_is_bounded(trained, monkeypatch):
    """However many continuations share a context, and however long they are: few tokens in a batch, few logits."""
    torch.manual_seed(0)
    endings = torch.randint(1, 300, (40, 6)).tolist()
    pairs = [([5, 6], ending) for ending in endings] + [([number], endings[0]) for number in range(10, 30)]
    expected = score_continuations(trained, pairs)
    logits, hidden_states, heads, batches = trained.logits, trained.hidden_states, [], []
    monkeypatch.setattr(continuations, "HEAD_TOKENS", 16)
    monkeypatch.setattr(continuations, "BATCH_TOKENS", {"cpu": 64})
    monkeypatch.setattr(prefix_tree, "ROW_TOKENS", 64)
    monkeypatch.setattr(trained, "logits", lambda hidden: heads.append(len(hidden)) or logits(hidden))
    monkeypatch.setattr(
        trained,
        "hidden_states",
        lambda tokens, **kwargs: batches.append(tokens.numel()) or hidden_states(tokens, **kwargs),
    )
    found = score_continuations(trained, pairs)
    assert max(heads) == 16
    assert max(batches) <= 64
    assert sum(batches) < sum(len(context) + len(ending) - 1 for context, ending in pairs)
    assert [each.logprob for each in found] == pytest.approx([each.logprob for each in expected], abs=1e-4)
    assert [each.is_greedy for each in found] == [each.is_greedy for each in expected]


@pytest.mark.parametrize(
    "settings",
    [
        {"sliding_window": 5, "attention_pattern": ("local", "global")},
        {"position_embedding": "learned"},
        {"position_embedding": "alibi"},
        {"attention_sinks": True},
        {"attention_softcap": 5.0},
    ],
    ids=str,
)
def test_kinds_of_attention(settings):
    """Also where a row of several sequences is longer than the context."""
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=40,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        context_length=24,
        init_std=0.3,
        **settings,
    )
    model = Decoder(config).eval()
    ids = torch.randint(1, 40, (60,)).tolist()
    contexts = [ids[:12], [*ids[:12], *ids[40:45]], ids[:6], ids[20:30]]
    pairs = [(context, ids[begin : begin + 4]) for context in contexts for begin in range(30, 37)]
    for (context, ending), score in zip(pairs, score_continuations(model, pairs), strict=True):
        assert score.logprob == pytest.approx(response_logprobs(model, context, ending).sum().item(), abs=1e-4)


def test_rows_of_sequences_that_begin_alike():
    sequences = [(1, 2, 3, 4), (1, 2, 5), (1, 2, 3, 4, 6), (9, 8), (1, 2, 3, 4)]
    rows = list(prefix_tree.prefix_rows(sequences))
    assert [row.tokens for row in rows] == [[1, 2, 3, 4, 6, 5], [9, 8]]
    assert rows[0].depths == [0, 1, 2, 3, 4, 2]
    assert rows[0].ends == [6, 6, 5, 5, 5, 6]
    assert rows[0].paths == {0: [0, 1, 2, 3], 4: [0, 1, 2, 3], 2: [0, 1, 2, 3, 4], 1: [0, 1, 5]}
    assert [len(row.tokens) for row in prefix_tree.prefix_rows(sequences, max_tokens=1)] == [6, 2]
    choices = [(*range(2_000), choice) for choice in range(4)]  # of a question longer than a row
    assert [len(row.tokens) for row in prefix_tree.prefix_rows(choices)] == [2_004]
    questions = [(*range(500), *[number] * 400) for number in range(600, 604)]
    assert [len(row.tokens) for row in prefix_tree.prefix_rows(questions)] == [1_700, 900]
