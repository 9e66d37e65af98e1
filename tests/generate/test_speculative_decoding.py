"""Speculative decoding: the tokens of the plain loop with the same seed, and so the distribution of the model."""

import itertools
import random
from typing import Any

import pytest
import torch

from groundup.artifacts.errors import UserError
from groundup.generate import (
    GREEDY,
    BatchingEngine,
    DraftModel,
    GrammarCompiler,
    PromptLookup,
    Request,
    SamplingParams,
    SequenceSampler,
    check_draft,
    generate,
    make_deterministic,
)
from groundup.generate.native.native_matrix import native_library
from groundup.generate.speculative_decoding import OpenText
from groundup.model import build_model
from groundup.recipe import ModelConfig
from groundup.tokenizer.tokenizer_training import train_bpe

V = 7
SETTINGS = [
    GREEDY,
    SamplingParams(seed=1),
    SamplingParams(seed=2, temperature=0.7, top_p=0.9, repetition_penalty=1.3),
    SamplingParams(seed=3, frequency_penalty=0.4, banned_sequences=[[2, 3]], min_tokens=12),
]


def random_model(seed: int, architecture: str = "decoder", vocab_size: int = V, scale: float = 3.0) -> Any:
    torch.manual_seed(seed)
    config = ModelConfig(
        architecture=architecture, vocab_size=vocab_size, hidden_size=16, num_layers=1, num_heads=2, context_length=64,
        **({"decoder_start_token_id": 0} if architecture == "encoder_decoder" else {}),
    )  # fmt: skip
    model = build_model(config).eval()
    for weight in model.parameters():
        weight.data *= scale
    return model


def speculative_tokens(model, prompt, proposer, **options) -> list[int]:
    request = Request(prompt, **options)
    engine = BatchingEngine(model, proposer=proposer)
    engine.submit(request)
    while engine.busy:
        engine.step()
    return request.tokens


@pytest.fixture(scope="module")
def model():
    return random_model(0)


@pytest.mark.parametrize(
    ("architecture", "sampling"),
    [*(("decoder", sampling) for sampling in SETTINGS), ("encoder_decoder", SETTINGS[2])],
    ids=["greedy", "sampled", "filtered", "penalties", "encoder-decoder"],
)
def test_tokens_are_those_of_the_plain_loop(architecture, sampling):
    model, near = random_model(0, architecture), random_model(0, architecture, scale=2.8)
    far = random_model(9, architecture, V + 2)
    prompt = [3, 1, 4, 1, 5, 3, 1]
    for limit, stops in ((1, ()), (16, (6,) if sampling.seed == 1 else ())):
        options = {"max_tokens": limit, "sampling": sampling, "stop_ids": stops}
        expected = generate(model, prompt, **options)
        for proposer in (PromptLookup(), DraftModel(near, V), DraftModel(far, V), DraftModel(model, V)):
            assert speculative_tokens(model, prompt, proposer, **options) == expected
            counts = proposer.counts
            assert counts.accepted <= counts.proposed
            assert counts.passes + counts.accepted + 1 >= len(expected)
    assert counts.accepted >= counts.proposed - 1  # the model as its own draft
    assert counts.passes < 6


@pytest.mark.parametrize("deterministic", [False, True])
def test_tokens_are_those_of_the_plain_loop_in_bfloat16(deterministic):
    if native_library() is None:
        pytest.skip("no C compiler")
    model = random_model(0, vocab_size=61, scale=5.0).bfloat16()
    model = make_deterministic(model) if deterministic else model
    draw = random.Random(0)
    for seed in range(2):
        prompt = [draw.randrange(61) for _ in range(5)] * 4
        options = {"max_tokens": 40, "sampling": SamplingParams(seed=seed, temperature=0.7)}
        expected = generate(model, prompt, **options)
        assert speculative_tokens(model, prompt, PromptLookup(), **options) == expected


@pytest.mark.slow
def test_distribution_by_enumeration(model):
    """2 tokens: the frequency of each of the 49 texts, against its probability."""
    near, sampling = random_model(0, scale=2.5), SamplingParams(temperature=1.3, top_k=5)
    exact = {}
    for text in itertools.product(range(V), repeat=2):
        logits = model(torch.tensor([[2, *text]])).logits[0, :2].detach() / sampling.temperature
        kept = logits.masked_fill(logits < logits.topk(5, dim=-1).values[:, -1:], -torch.inf).softmax(-1)
        exact[text] = float(kept[torch.arange(2), torch.tensor(text)].prod())
    assert sum(exact.values()) == pytest.approx(1, abs=1e-4)
    drawn, total = dict.fromkeys(exact, 0), 1000
    engine = BatchingEngine(model, max_batch=16, proposer=DraftModel(near, V, max_batch=16))
    requests = [Request([2], 2, SamplingParams(temperature=1.3, top_k=5, seed=seed)) for seed in range(total)]
    for request in requests:
        engine.submit(request)
    while engine.busy:
        engine.step()
    for request in requests:
        drawn[tuple(request.tokens)] += 1
    assert all(exact[text] > 0 for text, count in drawn.items() if count)
    expected = {text: probability * total for text, probability in exact.items() if probability * total >= 5}
    rest = total - sum(expected.values())
    chi2 = sum((drawn[text] - count) ** 2 / count for text, count in expected.items())
    chi2 += (total - sum(drawn[text] for text in expected) - rest) ** 2 / max(rest, 1)
    assert chi2 < len(expected) + 4 * (2 * len(expected)) ** 0.5  # its mean and deviation


def test_prompt_lookup_finds_what_followed():
    lookup, text = PromptLookup(), OpenText([1, 2, 3, 4, 9, 1, 2, 5], [], SequenceSampler(GREEDY))
    for output_ids, count, expected in (
        ([8, 1, 2], 4, [5, 8, 1, 2]), ([8, 1, 2, 3], 2, [4, 9]), ([8, 1, 2, 3, 7], 2, []),
    ):  # fmt: skip
        text.sampler.output_ids = output_ids
        assert lookup.propose([text], [count]) == [expected]  # the last place


def test_a_text_that_repeats_itself_takes_few_passes(model):
    sampling = SamplingParams(
        temperature=0, logit_bias={1: 100.0, 2: 100.0, 3: 100.0}
    )  # a cycle of three tokens at most
    expected = generate(model, [1, 2], max_tokens=30, sampling=sampling)
    proposer = PromptLookup()
    assert speculative_tokens(model, [1, 2], proposer, max_tokens=30, sampling=sampling) == expected
    assert proposer.counts.passes < 20


def test_with_a_grammar():
    tokenizer = train_bpe(['{"a": 12, "b": [1, 2]}'] * 3, 266)
    model, draft = random_model(0, vocab_size=tokenizer.vocab_size), random_model(1, vocab_size=tokenizer.vocab_size)
    schema = {"type": "object", "properties": {"a": {"type": "integer", "maximum": 99}}, "required": ["a"],
              "additionalProperties": False}  # fmt: skip
    sampling = SamplingParams(seed=3, grammar=GrammarCompiler(tokenizer).json_schema(schema))
    options = {"max_tokens": 60, "sampling": sampling, "stop_ids": tokenizer.stop_ids}
    expected = generate(model, [5], **options)
    proposer = DraftModel(draft, tokenizer.vocab_size)
    assert speculative_tokens(model, [5], proposer, **options) == expected
    assert proposer.counts.accepted > 2  # what the grammar forces, the draft knows


@pytest.mark.parametrize("kind", ["draft", "lookup"])
@pytest.mark.parametrize("memory", [None, 3 * 16 * 16 * 2 * 4])
def test_many_requests_together(model, kind, memory):
    """Equal to the plain loop one by one, when they come and go, share pages, and give them up."""
    draw = random.Random(1)
    proposer = PromptLookup() if kind == "lookup" else DraftModel(random_model(0, scale=2.9), V, max_batch=3)
    engine = BatchingEngine(model, max_batch=3, prefill_chunk=9, cache_memory=memory, proposer=proposer)
    shared = [draw.randrange(V) for _ in range(18)]
    requests = [
        Request(
            shared[: draw.randrange(1, 19)], draw.randrange(12, 25), SETTINGS[number % 4], (6,) if number % 3 else ()
        )
        for number in range(10)
    ]
    cancelled = requests[4]
    for request in requests:
        engine.submit(request)
        engine.step()
    engine.cancel(cancelled)
    while engine.busy:
        engine.step()
    for request in requests:
        if request is not cancelled:
            options = {"max_tokens": request.max_tokens, "sampling": request.sampling, "stop_ids": request.stop_ids}
            assert request.tokens == generate(model, request.prompt_ids, **options)
    assert proposer.counts.accepted > 10
    assert (engine.preemptions > 0) == (memory is not None)
    assert engine.cache.pool.used == 0
    if isinstance(proposer, DraftModel):
        assert proposer._cache.pool.used == 0


def test_drafts_that_cannot_propose_are_refused(model):
    first, second = train_bpe(["abab abab"] * 3, 262), train_bpe(["cdcd cdcd"] * 3, 262)
    check_draft(model, first, random_model(1), first)
    with pytest.raises(UserError, match="tokenizers of the model and of the draft differ"):
        check_draft(model, first, random_model(1), second)
    with pytest.raises(UserError, match="architecture encoder_decoder, expected decoder"):
        check_draft(model, first, random_model(1, "encoder_decoder"), first)
