"""Sampling: frequencies, seeds, filters and parameter ranges."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from groundup.artifacts.errors import UserError
from groundup.generate.sampling import InvalidLogitsError, SamplingParams, filter_logits, sample_token

LOGITS = torch.tensor([2.0, 1.0, 0.5, -1.0, -3.0])


def draw_samples(count: int, **knobs) -> list[int]:
    sampling = SamplingParams(**knobs)
    generator = sampling.generator()
    return [sample_token(LOGITS, sampling, generator) for _ in range(count)]


def test_sample_frequencies_equal_the_softmax():
    drawn = torch.bincount(torch.tensor(draw_samples(4000, temperature=1.5, seed=0)), minlength=5) / 4000
    assert torch.allclose(drawn, (LOGITS / 1.5).softmax(0), atol=0.025)


def test_seeds():
    assert draw_samples(20, seed=1) == draw_samples(20, seed=1)
    assert draw_samples(20, seed=1) != draw_samples(20, seed=2)
    assert draw_samples(60) != draw_samples(60)


@pytest.mark.parametrize("temperature", [0, 1e-300, 1e-6])
def test_temperatures_near_zero_are_greedy(temperature):
    assert draw_samples(20, temperature=temperature) == [0] * 20


def test_repetition_penalty_applies_to_greedy_decoding():
    assert (
        sample_token(LOGITS, SamplingParams(temperature=0, repetition_penalty=5.0), torch.Generator(), prompt_ids=[0])
        == 1
    )


@given(
    logits=st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=20),
    temperature=st.floats(1e-5, 1e3),
    top_k=st.integers(0, 30),
    top_p=st.floats(0, 1, exclude_min=True),
    min_p=st.floats(0, 1),
)
def test_filters_never_exclude_the_most_likely_token(logits, temperature, top_k, top_p, min_p):
    filtered = filter_logits(torch.tensor(logits), SamplingParams(temperature, top_k, top_p, min_p))
    assert not filtered.isnan().any()
    assert filtered.max() == (torch.tensor(logits) / temperature).max()
    assert sample_token(
        torch.tensor(logits), SamplingParams(temperature, top_k, top_p, min_p), torch.Generator()
    ) < len(logits)


@pytest.mark.parametrize(
    "knobs",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": 0},
        {"top_p": 1.5},
        {"min_p": 2},
        {"repetition_penalty": 0},
        {"seed": -1},
        {"seed": 2**64},
    ],
)
def test_parameters_out_of_range_are_refused_by_name(knobs):
    (name,) = knobs
    with pytest.raises(UserError, match=f"{name} = "):
        SamplingParams(**knobs)


def greedy(logits=LOGITS, *, prompt_ids=(), output_ids=(), stop_ids=(), **knobs) -> int:
    sampling = SamplingParams(temperature=0, **knobs)
    return sample_token(
        logits, sampling, torch.Generator(), prompt_ids=prompt_ids, output_ids=output_ids, stop_ids=stop_ids
    )


def test_output_penalties_count_the_output_and_not_the_prompt():
    assert greedy(prompt_ids=[0, 0], presence_penalty=2, frequency_penalty=2) == 0
    assert greedy(output_ids=[0], presence_penalty=0.9) == 0
    assert greedy(output_ids=[0], presence_penalty=1.1) == 1
    assert greedy(output_ids=[0], frequency_penalty=0.6) == 0
    assert greedy(output_ids=[0, 0], frequency_penalty=0.6) == 1


def test_logit_bias_and_banned_sequences():
    assert greedy(logit_bias={4: 100.0}) == 4
    assert greedy(banned_sequences=[[0], [1]]) == 2
    banned = [[3, 0]]
    assert greedy(banned_sequences=banned, output_ids=[2]) == 0
    assert greedy(banned_sequences=banned, output_ids=[3]) == 1
    assert greedy(banned_sequences=banned, prompt_ids=[3]) == 1


def test_no_stop_token_before_min_tokens():
    assert greedy(stop_ids=[0, 9], min_tokens=2, output_ids=[1]) == 1
    assert greedy(stop_ids=[0, 9], min_tokens=2, output_ids=[1, 1]) == 0


@pytest.mark.parametrize("penalty", [1e-38, 1e38])
@pytest.mark.parametrize("temperature", [0, 0.7])
def test_extreme_penalties_do_not_overflow(penalty, temperature):
    sampling = SamplingParams(temperature=temperature, repetition_penalty=penalty, seed=1)
    token = sample_token(LOGITS, sampling, sampling.generator(), prompt_ids=[0, 1, 2, 3, 4])
    assert 0 <= token < 5


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0, 1])
def test_logits_that_are_not_finite_are_refused(bad, temperature):
    logits = LOGITS.clone()
    logits[2] = bad
    with pytest.raises(InvalidLogitsError, match="not finite"):
        sample_token(logits, SamplingParams(temperature=temperature), torch.Generator())


def test_all_tokens_banned():
    with pytest.raises(InvalidLogitsError, match="every token is banned"):
        greedy(banned_sequences=[[token] for token in range(5)])
