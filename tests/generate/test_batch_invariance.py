"""Deterministic generation: tokens and log-probabilities are bit for bit the same alone and in any company."""

import random
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from groundup.artifacts.errors import UserError
from groundup.generate import BatchingEngine, Request, SamplingParams, make_deterministic, stream_tokens, use_kv_bits
from groundup.generate import fixed_shape_products as products
from groundup.generate.batch_invariance import BatchInvariance, in_whole_registers
from groundup.generate.chunked_attention import CHUNK, chunked_attention, tree_sum
from groundup.model import build_model
from groundup.model.attention import eager_attention, softcap
from groundup.model.attention_mask import AttentionMask, build_mask
from groundup.quantize import QuantizationScheme, QuantizationSettings, quantize_model
from groundup.quantize.kernels.kernel_choice import use_kernels
from groundup.recipe import ModelConfig

VOCAB = 97
SIZES = {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "context_length": 192}
KNOBS = {
    "grouped heads": {},
    "windows": {"sliding_window": 24, "attention_pattern": ("local", "global"), "qk_norm": True},
    "mixture": {"moe": {"num_experts": 4, "experts_per_token": 2, "intermediate_size": 48, "num_shared_experts": 1}},
    "softcaps": {"attention_softcap": 20.0, "logit_softcap": 10.0, "feed_forward": "geglu_tanh"},
    "sinks": {"attention_sinks": True, "intermediate_size": 100},
    "latents": {
        "num_kv_heads": 4,
        "head_dim": 24,
        "latent_attention": {"kv_rank": 32, "rope_head_dim": 8, "value_head_dim": 16},
    },
    "alibi": {"position_embedding": "alibi", "norm": "layernorm", "feed_forward": "gelu", "feed_forward_bias": True},
}


def drawn(**knobs) -> Any:
    torch.manual_seed(1)
    model = build_model(ModelConfig(vocab_size=VOCAB, **(SIZES | knobs))).eval()
    with torch.no_grad():  # larger weights, so that the next token depends on the whole text
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.2)
    return model


def requests() -> list[Request]:
    """Prompts of one token to more than a chunk of keys; two begin alike; some are sampled."""
    draw = random.Random(2)
    shared = [draw.randrange(VOCAB) for _ in range(70)]
    prompts = [[3], [*shared, 5], [*shared, 6, 7], [9, 8] * 9]
    return [
        Request(prompt, 3 + index, SamplingParams(temperature=index % 3 * 0.5, top_p=0.9, seed=index), logprobs=3)
        for index, prompt in enumerate(prompts)
    ]


def answers(model, wanted, *, chunk=256, at_once=1, num_cancelled=0, **options) -> dict[int, list]:
    """Tokens and log-probabilities by the number of the request, of which `at_once` arrive in a step, in this order."""
    engine = BatchingEngine(model, prefill_chunk=chunk, **options)
    every = requests()
    queue = [every[number] for number in wanted]
    cancelled, numbers = queue[:num_cancelled], dict(zip(queue, wanted, strict=True))
    found = {number: [] for number in wanted}
    while queue or engine.busy:
        for request in queue[:at_once]:
            engine.submit(request)
        del queue[:at_once]
        for output in engine.step():
            assert output.error is None
            found[numbers[output.request]].append((output.token, output.logprob, output.top_logprobs))
            if output.request in cancelled and len(output.request.tokens) == 2:
                engine.cancel(output.request)
    return {number: answer for number, answer in found.items() if every[number] not in cancelled}


COMPANIES = [{"wanted": [3, 2, 0, 1], "chunk": 40, "at_once": 2, "max_batch": 3, "num_cancelled": 1}]
MORE_COMPANIES = [
    *COMPANIES,
    {"wanted": [3, 2, 1, 0], "chunk": 7, "max_batch": 3},
    {"wanted": [2, 0, 3, 1], "at_once": 4},
]


def num_different(model: nn.Module, companies: list[dict] = COMPANIES) -> int:
    """Answers that are not those that the request gets alone."""
    alone = {number: answers(model, [number])[number] for number in range(len(requests()))}
    return sum(answer != alone[number] for each in companies for number, answer in answers(model, **each).items())


def quantized(bits: int, **knobs) -> Any:
    model = drawn(**knobs)
    quantize_model(model, QuantizationSettings("rtn", QuantizationScheme(bits, 32)))
    return use_kernels(model.bfloat16())


MODELS = {
    f"{name}-{str(dtype).removeprefix('torch.')}": partial(
        lambda name, dtype: drawn(**KNOBS[name]).to(dtype), name, dtype
    )
    for name in KNOBS
    for dtype in (torch.float32, torch.bfloat16)
} | {
    f"{name}-{bits} bits": partial(lambda name, bits: quantized(bits, **KNOBS[name]), name, bits)
    for name in ("grouped heads", "mixture")
    for bits in (8, 4)
}
FAST = ("grouped heads-float32", "windows-bfloat16", "grouped heads-4 bits", "mixture-bfloat16")


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_answers_are_the_same_alone_and_in_company(name):
    companies = COMPANIES if name in FAST else MORE_COMPANIES
    assert num_different(make_deterministic(MODELS[name]()), companies) == 0


@pytest.mark.parametrize("name", ["grouped heads-float32", pytest.param("mixture-bfloat16", marks=pytest.mark.slow)])
def test_without_it_they_differ(name):
    """Otherwise the tests above could not fail."""
    assert num_different(MODELS[name]()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("native", [True, False], ids=["compiled", "without a compiler"])
def test_any_number_of_threads_and_no_compiler(native, threads, monkeypatch):
    if not native:
        monkeypatch.setattr(products, "native_library", lambda: None)
        monkeypatch.setattr("groundup.generate.native.decode_step.native_library", lambda: None)
        monkeypatch.setattr("groundup.quantize.kernels.int4_cpu.native_library", lambda: None)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for name in ("grouped heads-float32", "windows-bfloat16", "mixture-4 bits", "grouped heads-8 bits"):
            assert num_different(make_deterministic(MODELS[name]())) == 0
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_8_bit_caches_and_little_memory():
    model = make_deterministic(use_kv_bits(drawn().bfloat16(), 8))
    assert num_different(model, [*COMPANIES, {"wanted": [1, 3, 2, 0], "at_once": 4, "cache_memory": 17_000}]) == 0


def test_the_plain_loop_gives_the_same_tokens():
    model = make_deterministic(drawn().bfloat16())
    for number, request in enumerate(requests()[:2]):
        tokens = list(
            stream_tokens(model, request.prompt_ids, max_tokens=request.max_tokens, sampling=request.sampling)
        )
        assert tokens == [token for token, *_ in answers(model, [0, 1], at_once=2)[number]]


@pytest.mark.parametrize("cap", [None, 5.0])
@pytest.mark.parametrize("sinks", [False, True])
def test_chunked_attention_equals_plain_attention(cap, sinks):
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 6, 37, 16), torch.randn(2, 3, 150, 16), torch.randn(2, 3, 150, 8)
    mask = build_mask(37, 150, torch.device("cpu"), causal=True, window=90)
    options = {"scale": 0.3, "sinks": torch.randn(6) if sinks else None}
    if cap is not None:
        options["cap"] = partial(softcap, limit=cap)
    expected = eager_attention(query, key, value, mask, **options)
    torch.testing.assert_close(chunked_attention(query, key, value, mask, **options), expected)


def test_chunked_attention_does_not_depend_on_other_rows_and_later_keys():
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 4, 40, 16), torch.randn(3, 2, 3 * CHUNK, 16), torch.randn(3, 2, 3 * CHUNK, 16)
    keys = torch.arange(3 * CHUNK)
    lengths = torch.tensor([40, 100, 3 * CHUNK])[:, None, None, None]
    visible = keys <= lengths - 40 + torch.arange(40)[:, None]
    together = chunked_attention(query, key, value, AttentionMask(dense=visible), scale=0.25)
    for row, length in enumerate((40, 100, 3 * CHUNK)):
        for token in (0, 17, 39):
            part = AttentionMask(dense=visible[row : row + 1, :, token : token + 1, :length])
            one = chunked_attention(
                query[row : row + 1, :, token : token + 1], key[row : row + 1, :, :length],
                value[row : row + 1, :, :length], part, scale=0.25,
            )  # fmt: skip
            assert torch.equal(one[0, :, 0], together[row, :, token])


def test_zeros_at_the_end_do_not_change_a_tree_sum():
    torch.manual_seed(0)
    for count in range(1, 10):
        parts = torch.randn(count, 50)
        padded = torch.cat([parts, torch.zeros(9, 50)])
        torch.testing.assert_close(tree_sum(parts, 0), parts.sum(0))
        assert all(torch.equal(tree_sum(padded[:end], 0), tree_sum(parts, 0)) for end in range(count, count + 9))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("native", [True, False], ids=["compiled", "torch"])
def test_rows_of_a_product_do_not_depend_on_each_other(native, dtype, monkeypatch):
    if not native:
        monkeypatch.setattr(products, "native_library", lambda: None)
    torch.manual_seed(0)
    for inputs, outputs in ((64, 96), (33, 65), (576, 192)):
        weight, bias = torch.randn(outputs, inputs).to(dtype), torch.randn(outputs).to(dtype)
        x = torch.randn(300, inputs).to(dtype)
        together = products.row_linear(x, weight, bias)
        torch.testing.assert_close(together, F.linear(x, weight, bias), rtol=2e-2, atol=1e-1)
        for begin, end in ((0, 1), (299, 300), (5, 21), (100, 163), (0, 299)):
            assert torch.equal(products.row_linear(x[begin:end], weight, bias), together[begin:end])


def test_a_product_whose_rows_are_not_alike_is_refused():
    rows = torch.randn(3, 4)
    with pytest.raises(UserError, match="depends on the place of a row"):
        products.in_tiles(rows, lambda x: x * torch.arange(len(x))[:, None], "unequal")


def test_activations_do_not_depend_on_the_place_of_a_number():
    torch.manual_seed(0)
    x = torch.randn(70, 33)
    for function in (F.silu, torch.sigmoid, F.softplus):
        whole = in_whole_registers(function, x)
        assert torch.equal(in_whole_registers(function, x[5:6]), whole[5:6])
        torch.testing.assert_close(whole, function(x))


def test_what_has_no_form_is_refused():
    with BatchInvariance(), pytest.raises(UserError, match="einsum"):
        torch.einsum("ab,bc->ac", torch.ones(2, 2), torch.ones(2, 2))
    with pytest.raises(UserError, match="state-space"):
        make_deterministic(drawn(num_kv_heads=4, state_space={"state_size": 8, "num_groups": 2}))


def test_preempted_requests_get_the_same_answers(monkeypatch):
    preempted = []
    preempt = BatchingEngine._preempt
    monkeypatch.setattr(BatchingEngine, "_preempt", lambda engine: (preempted.append(engine), preempt(engine)))
    model = make_deterministic(drawn().bfloat16())

    def run(numbers, **options):
        engine = BatchingEngine(model, **options)
        made = {Request([n + 1, n + 2, n + 3] * 4, 40, SamplingParams(seed=n), logprobs=2): n for n in numbers}
        found = {n: [] for n in numbers}
        for request in made:
            engine.submit(request)
        while engine.busy:
            for output in engine.step():
                found[made[output.request]].append((output.token, output.logprob, output.top_logprobs))
        return found

    alone = {n: run([n])[n] for n in range(4)}
    assert run(range(4), cache_memory=33_000) == alone
    assert preempted
