"""Log-probabilities, entropy and masked means equal their definitions, and carry gradients."""

import math

import pytest
import torch

from groundup.evaluate import (
    bits_per_byte,
    entropy,
    masked_mean,
    perplexity,
    response_logprobs,
    score_text,
    token_logprobs,
)


def test_token_logprobs_equal_the_log_softmax(untrained):
    tokens = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    logprobs = token_logprobs(untrained, tokens)
    table = untrained(tokens).logits.log_softmax(-1)
    assert logprobs.shape == (2, 3)
    for row in range(2):
        for i in range(3):
            assert logprobs[row, i].item() == pytest.approx(table[row, i, tokens[row, i + 1]].item(), abs=1e-5)
    (gradient,) = torch.autograd.grad(logprobs.sum(), [next(untrained.parameters())])
    assert gradient.abs().sum() > 0


def test_response_logprobs_are_the_last_token_logprobs(untrained):
    every = token_logprobs(untrained, torch.tensor([[5, 6, 7, 8, 9]]))[0]
    assert torch.equal(response_logprobs(untrained, [5, 6, 7], [8, 9]), every[2:])
    with pytest.raises(ValueError, match="prompt_ids is empty"):
        response_logprobs(untrained, [], [1, 2])


def test_perplexity_and_bits_per_byte(untrained, tokenizer):
    ids = [5, 6, 7, 8]
    expected = math.exp(-token_logprobs(untrained, torch.tensor([ids])).mean().item())
    assert perplexity(untrained, ids) == pytest.approx(expected, rel=1e-5)
    assert perplexity(untrained, torch.tensor(ids)) == pytest.approx(expected, rel=1e-5)
    text = "The river went to the garden."
    assert bits_per_byte(untrained, tokenizer, text) == score_text(untrained, tokenizer, text)["bits_per_byte"]


def test_entropy():
    logits = torch.tensor([[0.0, 0, 0, 0], [50, 0, 0, 0], [0, 0, -torch.inf, -torch.inf]], requires_grad=True)
    assert entropy(logits).tolist() == pytest.approx([math.log(4), 0, math.log(2)], abs=1e-6)
    (gradient,) = torch.autograd.grad(entropy(logits).sum(), [logits])
    assert gradient.isfinite().all()


def test_masked_mean():
    values, mask = torch.tensor([[1.0, 2, torch.nan], [5, 6, 7]]), torch.tensor([[1, 1, 0], [1, 0, 0]])
    assert masked_mean(values, mask).item() == pytest.approx(8 / 3)
    assert masked_mean(values, mask, dim=1).tolist() == [1.5, 5.0]
