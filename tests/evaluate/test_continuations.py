"""Likelihood of continuations, beside one forward pass for each."""

import pytest
import torch

from groundup.evaluate import ScoredDocument, continuations, response_logprobs, score_documents
from groundup.evaluate.continuations import score_continuations
from groundup.generate import GREEDY, generate


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
    """However many continuations share a context, and however long they are: few rows in the cache, few logits."""
    torch.manual_seed(0)
    endings = torch.randint(1, 300, (40, 6)).tolist()
    pairs = [([5, 6], ending) for ending in endings] + [([number], endings[0]) for number in range(10, 30)]
    expected = score_continuations(trained, pairs)
    logits, new_cache, sizes = trained.logits, trained.new_cache, []
    monkeypatch.setattr(continuations, "HEAD_TOKENS", 16, raising=False)
    monkeypatch.setattr(continuations, "CACHED_TOKENS", 64, raising=False)
    monkeypatch.setattr(trained, "logits", lambda hidden: sizes.append(len(hidden)) or logits(hidden))
    monkeypatch.setattr(trained, "new_cache", lambda rows, length: sizes.append(length) or new_cache(rows, length))
    found = score_continuations(trained, pairs)
    assert max(sizes) == 16
    assert sizes.count(8) >= 5
    assert [each.logprob for each in found] == pytest.approx([each.logprob for each in expected], abs=1e-4)
    assert [each.is_greedy for each in found] == [each.is_greedy for each in expected]
