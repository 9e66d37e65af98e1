"""Sampling filters against transformers' logits processors."""

import pytest
import torch
from transformers.generation import logits_process as reference

from groundup.generate import sampling as ours
from groundup.generate.sampling import SamplingParams

V = 500


def rows(seed: int, scale: float = 4.0) -> torch.Tensor:
    return torch.randn(8, V, generator=torch.Generator().manual_seed(seed)) * scale


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [1, 5, 499, 500, 1000])
def test_top_k(seed, k):
    logits = rows(seed)
    assert torch.equal(ours.apply_top_k(logits, k), reference.TopKLogitsWarper(k)(None, logits))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("p", [0.01, 0.3, 0.9, 0.999])
def test_top_p(seed, p):
    logits = rows(seed)
    assert torch.equal(ours.apply_top_p(logits, p), reference.TopPLogitsWarper(p)(None, logits))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("p", [0.01, 0.3, 1.0])
def test_min_p(seed, p):
    logits = rows(seed)
    assert torch.equal(ours.apply_min_p(logits, p), reference.MinPLogitsWarper(p)(None, logits))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("p", [0.01, 0.3, 0.95])
def test_typical_p(seed, p):
    logits = ours.apply_top_k(rows(seed), 200)  # with excluded tokens, whose probability is 0
    assert torch.equal(ours.apply_typical_p(logits, p), reference.TypicalLogitsWarper(p)(None, logits))


@pytest.mark.parametrize("penalty", [0.8, 1.0, 1.3])
def test_repetition_penalty(penalty):
    logits, history = rows(0)[0], [3, 7, 7, 499]
    expected = reference.RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([history]), logits[None].clone())[0]
    assert torch.equal(ours.apply_repetition_penalty(logits, history, penalty), expected)


@pytest.mark.parametrize("seed", range(5))
def test_all_in_order(seed):
    logits, history = rows(seed)[0], [1, 2, 3, 250]
    chain = reference.LogitsProcessorList(
        [
            reference.RepetitionPenaltyLogitsProcessor(1.2),
            reference.TemperatureLogitsWarper(0.7),
            reference.TopKLogitsWarper(50),
            reference.TopPLogitsWarper(0.9),
            reference.MinPLogitsWarper(0.02),
            reference.TypicalLogitsWarper(0.8),
        ]
    )
    chain.insert(0, reference.SequenceBiasLogitsProcessor([[[5], 3.0], [[250], -1.5]]))
    chain.insert(2, reference.NoBadWordsLogitsProcessor([[9], [250, 7], [3, 8]]))
    expected = chain(torch.tensor([history]), logits[None].clone())[0]
    knobs = SamplingParams(
        temperature=0.7, top_k=50, top_p=0.9, min_p=0.02, typical_p=0.8, repetition_penalty=1.2,
        logit_bias={5: 3.0, 250: -1.5}, banned_sequences=[[9], [250, 7], [3, 8]],
    )  # fmt: skip
    assert torch.equal(ours.filter_logits(ours.adjust_logits(logits, knobs, history), knobs), expected)
    assert expected.isinf().any()
    assert not expected.isinf().all()
