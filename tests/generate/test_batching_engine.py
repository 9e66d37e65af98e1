"""Continuous batching: the output of each request equals the reference, whatever else is in the batch."""

import pytest
import torch

from groundup.artifacts.errors import UserError
from groundup.generate import (
    GREEDY,
    BatchingEngine,
    Request,
    SamplingParams,
    generate,
    generate_many,
    generate_reference,
    stream_tokens,
)
from groundup.model import Decoder
from groundup.recipe import ModelConfig

VOCAB = 97


def tiny(**knobs) -> Decoder:
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "context_length": 64}
    model = Decoder(ModelConfig(vocab_size=VOCAB, **(sizes | knobs))).eval()
    with torch.no_grad():  # larger weights, so that the next token depends on the whole text
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.3)
    return model


@pytest.fixture(scope="module")
def model() -> Decoder:
    return tiny()


def reference(model: Decoder, prompt: list[int], **knobs) -> list[int]:
    return list(generate_reference(model, prompt, **({"sampling": GREEDY} | knobs)))


def test_reference_output_depends_on_the_prompt(model):
    """Otherwise the tests below could not fail."""
    answers = {tuple(reference(model, [i], max_tokens=8)) for i in range(20)}
    assert len(answers) > 15


def test_cached_generation_equals_the_reference(model):
    for sampling in (GREEDY, SamplingParams(seed=3), SamplingParams(seed=4, top_k=5, repetition_penalty=1.3)):
        prompt = [5, 6, 7]
        fast = list(stream_tokens(model, prompt, max_tokens=30, sampling=sampling))
        assert generate(model, prompt, max_tokens=30, sampling=sampling) == fast
        assert fast == reference(model, prompt, max_tokens=30, sampling=sampling)
        assert len(fast) == 30


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"position_embedding": "learned", "norm": "layernorm", "feed_forward": "gelu"},
        {"sliding_window": 5, "attention_pattern": ("local", "global")},
        {"position_embedding": "alibi", "norm_placement": "parallel", "shared_norm": True, "head_bias": True},
        {"rotary_dim": 4, "norm_placement": "parallel"},
        {"attention_softcap": 20.0, "logit_softcap": 10.0, "qk_norm": True},
        {"attention_sinks": True, "sliding_window": 5, "attention_pattern": ("local", "global")},
        {
            "num_kv_heads": 4,
            "head_dim": 10,
            "latent_attention": {"kv_rank": 9, "rope_head_dim": 4, "value_head_dim": 7},
        },
        {
            "norm_placement": "sublayer_output",
            "qk_norm": True,
            "qk_norm_type": "projection",
            "rope_pattern": (True, False),
            "residual_scale": 0.5,
        },
        {"qk_norm": True, "qk_norm_type": "per_head", "feed_forward": "xielu"},
        {"norm": "unweighted_rmsnorm", "qk_norm": True, "embedding_norm": True, "keep_first_norm": True},
        {"num_kv_heads": 4, "state_space": {"state_size": 5, "num_groups": 2}},
    ],
    ids=[
        "llama",
        "gpt2",
        "windows",
        "alibi",
        "gptj",
        "softcaps",
        "sinks",
        "latents",
        "olmo2",
        "cohere",
        "nanochat",
        "states",
    ],
)
def test_each_request_of_a_batch_equals_the_reference(knobs):
    model = tiny(**knobs)
    prompts = [[3], list(range(40)), [9, 8, 7], [1, 2] * 6, [50], [60, 61]]
    expected = [reference(model, prompt, max_tokens=20) for prompt in prompts]
    assert generate_many(model, prompts, max_tokens=20, sampling=GREEDY, max_batch=3) == expected


def test_sampled_requests_have_independent_generators(model):
    prompts = [[i, i + 1] for i in range(6)]
    sampling = SamplingParams(temperature=0.9, top_p=0.9, min_p=0.01, seed=11)
    expected = [
        reference(
            model, prompt, max_tokens=12, sampling=SamplingParams(temperature=0.9, top_p=0.9, min_p=0.01, seed=11 + i)
        )
        for i, prompt in enumerate(prompts)
    ]
    assert generate_many(model, prompts, max_tokens=12, sampling=sampling, max_batch=4) == expected


def test_full_context_ends_generation(model):
    prompt = list(range(60))
    assert len(list(stream_tokens(model, prompt, max_tokens=99, sampling=GREEDY))) == 4
    assert len(generate_many(model, [prompt], max_tokens=99, sampling=GREEDY)[0]) == 4


def test_stop_token_ends_generation_and_is_not_returned(model):
    output = reference(model, [5, 6], max_tokens=10)
    stop = output[4]
    expected = output[: output.index(stop)]
    assert list(stream_tokens(model, [5, 6], max_tokens=10, sampling=GREEDY, stop_ids={stop})) == expected
    assert generate_many(model, [[5, 6]], max_tokens=10, sampling=GREEDY, stop_ids={stop}) == [expected]


@pytest.mark.parametrize(("prompt", "message"), [([], "empty"), ([1] * 64, "64 tokens, expected at most 63")])
def test_empty_and_too_long_prompts_are_refused(model, prompt, message):
    with pytest.raises(UserError, match=message):
        next(stream_tokens(model, prompt, max_tokens=3))
    with pytest.raises(UserError, match=message):
        BatchingEngine(model).submit(Request(prompt, 3))


def test_max_tokens_of_zero(model):
    assert list(stream_tokens(model, [1], max_tokens=0)) == []
    with pytest.raises(UserError, match="max_tokens = 0"):
        BatchingEngine(model).submit(Request([1], 0))


def test_logprobs_equal_the_log_softmax_of_the_model(model):
    engine = BatchingEngine(model)
    request = Request([4, 5, 6], 5, SamplingParams(temperature=0.5, top_k=3, seed=1), logprobs=4)
    engine.submit(request)
    events = []
    while engine.busy:
        events += engine.step()
    with torch.inference_mode():
        logits = model(torch.tensor([[4, 5, 6, *request.tokens]])).logits[0, 2:-1]
    expected = logits.log_softmax(-1)
    for event, row in zip(events, expected, strict=True):
        assert event.logprob == pytest.approx(float(row[event.token]), abs=1e-4)
        assert [id for id, _ in event.top_logprobs] == row.topk(4).indices.tolist()


def test_engine_works_after_a_failed_step(model, monkeypatch):
    engine = BatchingEngine(model)
    engine.submit(Request([1, 2], 4, GREEDY))
    engine.step()
    with monkeypatch.context() as broken:
        broken.setattr(engine.cache, "batch", lambda rows: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            engine.step()
    engine.clear()
    request = Request([1, 2], 4, GREEDY)
    engine.submit(request)
    while engine.busy:
        engine.step()
    assert request.tokens == reference(model, [1, 2], max_tokens=4)


def test_a_short_prompt_does_not_wait_for_a_long_one(model):
    engine = BatchingEngine(model, max_batch=4, prefill_chunk=2)
    long, short = Request(list(range(40)), 4, GREEDY), Request([5], 4, GREEDY)
    engine.submit(long)
    engine.step()
    engine.submit(short)
    order = []
    while engine.busy:
        order += [output.request for output in engine.step()]
    assert order[:4] == [short] * 4
    assert long.tokens == reference(model, list(range(40)), max_tokens=4)
    assert short.tokens == reference(model, [5], max_tokens=4)


def test_a_long_list_of_requests_makes_room_for_others(model):
    """A group has all rows while it is alone, and three quarters of them when others wait."""
    engine = BatchingEngine(model, max_batch=4)
    many = [Request([5, number], 6, GREEDY, group="list") for number in range(12)]
    for request in many:
        engine.submit(request)
    engine.step()
    assert (engine.running, engine.waiting) == (4, 8)
    others = [Request([6, number], 6, GREEDY, group=number) for number in range(2)]
    for request in others:
        engine.submit(request)
    order = [output.request for output in engine.step() if output.request not in many]
    assert order == others[:1]  # at once
    while engine.busy:
        order += [output.request for output in engine.step() if output.finish_reason]
    assert set(order[1:5]) == {*many[:3], others[0]}
    assert others[1] in order[:8]
    assert engine.preemptions == 1
    assert [request.tokens for request in many] == [reference(model, [5, i], max_tokens=6) for i in range(12)]


def test_samples_of_a_prompt_share_its_prefill_and_are_cancelled_alone(model):
    engine = BatchingEngine(model, max_batch=3, prefill_chunk=2)
    requests = [Request([7, 8, 9, 10], 5, SamplingParams(seed=seed)) for seed in range(4)]
    for request in requests:
        engine.submit(request)
    engine.step()
    assert (engine.running, engine.waiting) == (3, 1)
    engine.cancel(requests[0])
    assert engine.running == 2
    while engine.busy:
        engine.step()
    assert requests[0].tokens == []
    for seed, request in list(enumerate(requests))[1:]:
        assert request.tokens == reference(model, [7, 8, 9, 10], max_tokens=5, sampling=SamplingParams(seed=seed))


def test_a_row_that_is_not_finite_ends_alone():
    model = tiny(tie_embeddings=False)
    with torch.no_grad():
        model.embedding.tokens.weight[11] = torch.nan
    expected = reference(model, [3], max_tokens=6)
    assert 11 not in expected
    engine = BatchingEngine(model)
    good, bad = Request([3], 6, GREEDY), Request([3, 11], 6, GREEDY)
    engine.submit(good)
    engine.submit(bad)
    reasons = {}
    while engine.busy:
        reasons |= {output.request: output.finish_reason for output in engine.step() if output.finish_reason}
    assert reasons == {good: "length", bad: "error"}
    assert good.tokens == expected
    with pytest.raises(UserError, match="not finite"):
        generate_many(model, [[3, 11]], max_tokens=6)
