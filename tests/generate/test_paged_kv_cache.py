"""Paged key/value cache: the tokens of the reference under any budget, no page lost, memory as the tokens need it."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.artifacts.errors import UserError
from groundup.generate import GREEDY, BatchingEngine, Request, SamplingParams, generate, generate_reference, use_kv_bits
from groundup.generate.kv_cache_budget import new_paged_cache
from groundup.generate.page_pool import PagePool
from groundup.generate.paged_kv_cache import PAGE_SIZE, page_bytes
from groundup.model import Decoder, EncoderDecoder, StaticKVCache
from groundup.recipe import ModelConfig

SIZES = {"vocab_size": 61, "hidden_size": 32, "num_layers": 1, "num_heads": 4, "num_kv_heads": 2, "context_length": 96}


def tiny(**knobs):
    torch.manual_seed(1)
    config = ModelConfig.model_validate(SIZES | knobs)
    model = (EncoderDecoder if config.architecture == "encoder_decoder" else Decoder)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.3)
    return model


@pytest.fixture(scope="module")
def model() -> Decoder:
    return tiny()


def small_engine(model, num_pages: int, **options) -> BatchingEngine:
    """An engine with a budget of so many pages."""
    form = getattr(model, "cache_type", StaticKVCache)
    return BatchingEngine(model, cache_memory=num_pages * page_bytes(model.config, form, torch.float32), **options)


def run(engine: BatchingEngine, requests: list[Request]) -> None:
    for request in requests:
        engine.submit(request)
    steps = 0
    while engine.busy:
        engine.step()
        steps += 1
        assert steps < 2000
    assert engine.cache.pool.used == 0


@pytest.mark.parametrize(
    "knobs",
    [
        {"num_layers": 2, "sliding_window": 5, "attention_pattern": ("local", "global")},
        {"num_kv_heads": 4, "latent_attention": {"kv_rank": 9, "rope_head_dim": 4, "value_head_dim": 7}},
        {
            "num_layers": 2,
            "attention_pattern": ("linear", "global"),
            "gated_delta": {"num_key_heads": 2, "num_value_heads": 4, "key_head_dim": 8, "value_head_dim": 8},
        },
        {"position_embedding": "alibi"},
        {"architecture": "encoder_decoder", "num_encoder_layers": 1},
    ],
    ids=["windows", "latents", "linear", "alibi", "encoder_decoder"],
)
def test_architectures_in_too_few_pages(knobs):
    """Requests that do not fit together are computed one after another, and again where they were preempted."""
    model = tiny(**knobs)
    prompts = [[3], [1, 2] * 9, [9, 8, 7]]
    expected = [generate(model, prompt, max_tokens=34, sampling=GREEDY) for prompt in prompts]
    engine = small_engine(model, 4, max_batch=3, prefill_chunk=11)
    requests = [Request(prompt, 34, GREEDY) for prompt in prompts]
    run(engine, requests)
    assert [request.tokens for request in requests] == expected
    assert engine.preemptions


@pytest.mark.parametrize("kv_bits", [None, 8])
def test_pages_before_all_windows_are_given_back(kv_bits):
    """Where no layer is global; with the same tokens, for sequences that share a prompt and for prefixes that are found again."""
    model = tiny(num_layers=2, sliding_window=20, attention_pattern=("local",), context_length=400)
    use_kv_bits(model, kv_bits)
    prompts = [list(range(50)), list(range(50)), [*range(48), 7], [2]]
    plain = generate if kv_bits else generate_reference  # with one static cache, without any
    expected = [list(plain(model, prompt, max_tokens=40, sampling=GREEDY)) for prompt in prompts]
    engine = BatchingEngine(model, max_batch=4, prefill_chunk=23)
    requests = [Request(prompt, 40, GREEDY) for prompt in prompts]
    for request in requests:
        engine.submit(request)
    most = 0
    while engine.busy:
        engine.step()
        decodes = all(len(request.tokens) > 20 for request in requests)
        most = max(most, engine.cache.pool.used if decodes else 0)
    assert [request.tokens for request in requests] == expected
    assert 0 < most <= 3 * len(prompts)
    assert engine.cache.pool.used == 0


def test_one_global_layer_keeps_all_pages():
    model = tiny(num_layers=2, sliding_window=20, attention_pattern=("local", "global"), context_length=400)
    engine = BatchingEngine(model)
    engine.submit(Request([1], 150, GREEDY))
    while engine.busy:
        used = engine.cache.pool.used if "cache" in vars(engine) else 0
        engine.step()
    assert used == 10


def test_sampled_requests_keep_their_generator_when_preempted(model):
    samplings = [SamplingParams(seed=seed, repetition_penalty=1.2) for seed in range(3)]
    expected = [generate(model, [seed, 5], max_tokens=34, sampling=each) for seed, each in enumerate(samplings)]
    engine = small_engine(model, 4, max_batch=3)
    requests = [Request([seed, 5], 34, each) for seed, each in enumerate(samplings)]
    run(engine, requests)
    assert [request.tokens for request in requests] == expected
    assert engine.preemptions


ARRIVALS = st.lists(
    st.tuples(
        st.integers(0, 8),  # step of submission
        st.integers(1, 50),  # tokens of the prompt, which begins as all others
        st.integers(1, 30),  # max_tokens
        st.none() | st.integers(0, 30),  # step of cancellation
    ),
    min_size=1,
    max_size=6,
)


@pytest.fixture(scope="module")
def answers(model):
    """The longest answer to the prompt of each length."""
    known: dict[int, list[int]] = {}

    def answer(length: int) -> list[int]:
        if length not in known:
            known[length] = generate(model, [*range(length - 1), 60], max_tokens=30, sampling=GREEDY)
        return known[length]

    return answer


STOP_IDS = {0, 1}


@settings(max_examples=4, deadline=None)
@given(arrivals=ARRIVALS, num_pages=st.integers(4, 9), max_batch=st.integers(1, 5), chunk=st.integers(2, 40))
def test_any_arrivals_and_cancellations_in_any_budget(model, answers, arrivals, num_pages, max_batch, chunk):
    """Finished requests equal the plain loop, cancelled ones a prefix of it, and no page is lost."""
    engine = small_engine(model, num_pages, max_batch=max_batch, prefill_chunk=chunk)
    requests = [Request([*range(length - 1), 60], limit, GREEDY, STOP_IDS) for _, length, limit, _ in arrivals]
    cancelled, step = set(), 0
    while step < 9 or engine.busy:
        for request, (submitted, _, _, cancel) in zip(requests, arrivals, strict=True):
            if step == submitted:
                engine.submit(request)
            if step == cancel and cancel >= submitted:
                engine.cancel(request)
                cancelled.add(request)
        assert not any(output.request in cancelled for output in engine.step())
        assert engine.cache.pool.used <= num_pages
        step += 1
        assert step < 2000
    assert engine.running == engine.waiting == engine.cache.pool.used == 0
    for request in requests:
        length = len(request.prompt_ids)
        expected = answers(length)[: min(request.max_tokens, num_pages * PAGE_SIZE - length)]
        expected = list(itertools.takewhile(lambda token: token not in STOP_IDS, expected))
        assert request.tokens == expected[: len(request.tokens) if request in cancelled else None]


def test_equal_beginnings_are_read_once(model, monkeypatch):
    """The pages of an answered prompt serve the next turn of its conversation, and prompts that arrive together."""
    engine = BatchingEngine(model)
    read = []
    batch = engine.cache.batch
    monkeypatch.setattr(
        engine.cache, "batch", lambda rows: (read.append([each.length for each in rows]), batch(rows))[1]
    )
    system = list(range(40))
    run(engine, [first := Request([*system, 50], 9, GREEDY)])
    assert read[0] == [0]
    read.clear()
    turn = [*system, 50, *first.tokens, 51]
    run(
        engine,
        [second := Request(turn, 6, GREEDY), Request([*system, 52], 3, GREEDY), Request([1, *system], 3, GREEDY)],
    )
    assert [length for each in read for length in each][:3] == [48, 32, 0]
    assert second.tokens == generate(model, turn, max_tokens=6, sampling=GREEDY)
    read.clear()
    run(engine, [Request([2, *system], 1, GREEDY), third := Request([2, *system[:36], 9], 2, GREEDY)])
    assert read[:2] == [[0], [32]]  # the second waits for the first
    assert third.tokens == generate(model, third.prompt_ids, max_tokens=2, sampling=GREEDY)


def test_a_prompt_of_whole_pages_is_found_but_for_its_last_one(model):
    prompt = list(range(2 * PAGE_SIZE))
    engine = BatchingEngine(model)
    for _ in range(2):
        run(engine, [request := Request(prompt, 5, GREEDY)])
        assert request.tokens == generate(model, prompt, max_tokens=5, sampling=GREEDY)


def test_samples_share_the_pages_of_their_prompt_and_copy_the_last(model):
    prompt = list(range(PAGE_SIZE * 3 + 2))
    samplings = [SamplingParams(seed=seed, temperature=1.5) for seed in range(4)]
    engine = BatchingEngine(model, max_batch=4)
    requests = [Request(prompt, 4, each) for each in samplings]
    for request in requests:
        engine.submit(request)
    engine.step()
    assert engine.cache.pool.used == 4
    engine.step()
    assert engine.cache.pool.used == 3 + 4
    while engine.busy:
        engine.step()
    assert engine.cache.pool.used == 0
    assert [each.tokens for each in requests] == [generate(model, prompt, max_tokens=4, sampling=s) for s in samplings]


def test_eight_bits_in_pages(model):
    quantized = use_kv_bits(tiny(), 8)
    prompts = [[1, 2, 3, 4], [5, 6], [7] * 20]
    expected = [generate(quantized, prompt, max_tokens=20, sampling=GREEDY) for prompt in prompts]
    engine = small_engine(quantized, 4, max_batch=3)
    requests = [Request(prompt, 20, GREEDY) for prompt in prompts]
    run(engine, requests)
    assert [request.tokens for request in requests] == expected
    assert engine.cache.keys.dtype == torch.int8
    form = quantized.cache_type
    assert page_bytes(model.config, form, torch.float32) < page_bytes(model.config, StaticKVCache, torch.float32) / 3


def test_the_pages_of_a_row_that_is_not_finite_do_not_reach_their_next_owner():
    model = tiny(num_layers=2, tie_embeddings=False)
    with torch.no_grad():
        model.embedding.tokens.weight[11] = torch.nan
    engine = small_engine(model, 4)
    run(engine, [Request([11] * 40, 6, GREEDY)])
    engine.cache.forget_idle()
    run(engine, [request := Request([3], 6, GREEDY)])
    assert request.tokens == generate(model, [3], max_tokens=6, sampling=GREEDY)


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_memory_is_what_the_tokens_need_and_goes_back(model):
    """One long text and many rows: no row reserves the length of the longest."""
    config = model.config.model_copy(
        update={"context_length": 4096, "num_layers": 8, "num_kv_heads": 4, "head_dim": 64}
    )
    wide = Decoder.__new__(Decoder)  # only its sizes matter
    torch.nn.Module.__init__(wide)
    wide.config, wide.weight = config, torch.nn.Parameter(torch.zeros(1))
    cache = new_paged_cache(wide, max_batch=16)
    size = page_bytes(config, StaticKVCache, torch.float32)
    before = resident_bytes()
    sequence = cache.begin(range(1500))
    assert cache.reserve(sequence, 1500)
    needed = -(-1500 // PAGE_SIZE) * size
    grown = resident_bytes() - before
    assert grown < needed * 1.2
    assert cache.pool.num_pages * size > 10 * needed
    cache.free(sequence)
    assert resident_bytes() - before < needed * 0.2 + 2e6


def test_pool_counts_references_and_forgets_the_oldest_idle_page():
    pool = PagePool(3, PAGE_SIZE, max_idle=2)
    first, second, third = (pool.take() for _ in range(3))
    with pytest.raises(IndexError, match="all 3 pages"):
        pool.take()
    pool.share(first)
    assert pool.is_shared(first)
    assert pool.release([first, second]) == [second]
    for page, key in ((first, b"a"), (third, b"b")):
        pool.register(page, key)
    assert pool.release([third, first]) == []
    assert (pool.used, pool.idle, pool.available) == (0, 2, 3)
    assert pool.find(b"a") == first
    assert pool.take() == second
    assert pool.take() == third  # the page that was released first
    assert pool.find(b"b") is None
    pool.share(first)
    assert (pool.used, pool.idle) == (3, 0)
    assert pool.release([first]) == []
    assert pool.forget_idle() == [first]


def test_budgets_beyond_what_the_system_gives(model):
    engine = BatchingEngine(model, cache_memory=10**20)
    with pytest.raises(UserError, match="expected at most what the machine has"):
        engine.submit(Request([1], 2))


def test_budgets_that_are_too_small(model):
    with pytest.raises(UserError, match="kv_cache_memory = 10 bytes, expected at least 2048: a page of 16 tokens"):
        BatchingEngine(model, cache_memory=10).submit(Request([1], 2))
    with pytest.raises(UserError, match="40 tokens, expected at most 31"):
        small_engine(model, 2).submit(Request([1] * 40, 2))
    engine = small_engine(model, 2)
    run(engine, [request := Request([1] * 20, 50, GREEDY)])
    assert request.tokens == generate(model, [1] * 20, max_tokens=12, sampling=GREEDY)
