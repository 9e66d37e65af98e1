"""Likelihood of continuations, beside one forward pass for each."""

import pytest
import torch

from groundup.evaluate import ScoredDocument, response_logprobs, score_documents
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
