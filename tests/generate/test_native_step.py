"""The step of a decoder in C against its modules, for the parts that it knows."""

from typing import Any

import pytest
import torch
from torch import nn

from groundup.artifacts.errors import UserError
from groundup.generate import GREEDY, BatchingEngine, generate, next_token_logits
from groundup.generate.native import decode_step
from groundup.generate.native.native_matrix import native_library
from groundup.interop.adapters.lora_layer import adapter_disabled
from groundup.interop.adapters.trainable_tokens import add_trainable_tokens
from groundup.model import build_model
from groundup.quantize import QuantizationScheme, QuantizationSettings, quantize_model
from groundup.quantize.kernels.kernel_choice import use_kernels
from groundup.recipe import ModelConfig

pytestmark = pytest.mark.skipif(native_library() is None, reason="no C compiler")

SIZES = {"vocab_size": 80, "hidden_size": 64, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "context_length": 160}
VARIANTS = {
    "llama": {},
    "untied": {"tie_embeddings": False, "head_bias": True, "attention_bias": "qkv", "feed_forward_bias": True},
    "qwen3": {"qk_norm": True, "head_dim": 32},
    "gemma2": {
        "norm_placement": "sandwich", "norm": "zero_centered_rmsnorm", "feed_forward": "geglu_tanh", "embedding_scale": 8.0,
        "attention_softcap": 5.0, "logit_softcap": 3.0, "attention_pattern": ("local", "global"), "sliding_window": 7,
    },
    "olmo2": {"norm_placement": "sublayer_output", "feed_forward": "geglu"},
    "granite": {"residual_scale": 0.3, "logit_scale": 0.2, "attention_scale": 0.1},
    "partial": {"rotary_dim": 8, "rope_pattern": (True, False)},
    "mixtral": {"moe": {"num_experts": 6, "experts_per_token": 2, "intermediate_size": 96}},
    "deepseek": {
        "moe": {
            "num_experts": 5, "experts_per_token": 3, "intermediate_size": 32, "num_shared_experts": 2, "num_dense_layers": 1,
            "router_activation": "sigmoid", "routed_scale": 2.5, "load_balancing": "bias", "expert_bias": True,
        },
    },
    "qwen2_moe": {
        "moe": {
            "num_experts": 4, "experts_per_token": 1, "intermediate_size": 64, "num_shared_experts": 1,
            "shared_expert_gate": True, "normalize_scores": False,
        },
    },
    "yarn": {"rope_scaling": {"method": "yarn", "factor": 4.0, "original_context_length": 40}},
}  # fmt: skip


def draw_model(**sizes) -> Any:
    torch.manual_seed(0)
    model: Any = build_model(ModelConfig.model_validate(SIZES | sizes)).eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        weight.add_(0.1 * torch.randn_like(weight)) if "norm" in name or "bias" in name else weight.mul_(3)
    return model


def read_all(model, tokens, chunks, monkeypatch, rows=decode_step.MAX_ROWS):
    """Logits after each chunk of the tokens."""
    monkeypatch.setattr(decode_step, "MAX_ROWS", rows)
    cache = model.new_cache(len(tokens), 150)
    parts = torch.tensor(tokens).split(chunks, dim=1)
    return torch.stack([next_token_logits(model, part.tolist(), cache) for part in parts])


TOKENS = [[(7 * i + 3 * row) % 80 for i in range(90)] for row in range(2)]
"""Two sequences, longer than the keys that are read at once."""


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_those_of_the_modules(variant, monkeypatch):
    model = draw_model(**VARIANTS[variant])
    assert decode_step.find_step(model) is not None
    expected = read_all(model, TOKENS, 15, monkeypatch, rows=0)
    torch.testing.assert_close(read_all(model, TOKENS, 15, monkeypatch), expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize(
    ("bits", "variant"), [(32, "llama"), (16, "llama"), (8, "llama"), (4, "llama"), (16, "mixtral"), (4, "mixtral")]
)
def test_a_row_depends_on_its_own_tokens_only(bits, variant, monkeypatch):
    """The same bits alone and in company, by one token at a time and by many."""
    model = draw_model(**VARIANTS[variant]).to(torch.float32 if bits == 32 else torch.bfloat16)
    if bits < 16:
        quantize_model(model, QuantizationSettings("rtn", QuantizationScheme(bits, 32)))
        use_kernels(model)
    assert decode_step.find_step(model) is not None
    last = read_all(model, TOKENS, 15, monkeypatch)[-1]
    for row in (0, 1):
        for chunk in (1, 18, 30):
            assert torch.equal(read_all(model, TOKENS[row : row + 1], chunk, monkeypatch)[-1, 0], last[row])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(read_all(model, TOKENS, 15, monkeypatch)[-1], last)
    monkeypatch.undo()
    error = (read_all(model, TOKENS, 15, monkeypatch, rows=0)[-1].float() - last).norm() / last.norm()
    assert error < (1e-5 if bits == 32 else 0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_an_engine_gives_the_same_bits(dtype):
    model = draw_model().to(dtype)
    engine = BatchingEngine(model)
    cache = engine.cache
    sequences = [cache.begin(row) for row in TOKENS]
    for sequence in sequences:
        assert cache.reserve(sequence, 90)
    together = [
        next_token_logits(model, [row[i : i + 15] for row in TOKENS], cache.batch(sequences)) for i in range(0, 90, 15)
    ]
    alone = model.new_cache(1, 90)
    for begin in range(0, 90, 30):
        expected = next_token_logits(model, [TOKENS[1][begin : begin + 30]], alone)
    assert torch.equal(together[-1][1], expected[0])


def test_changed_weights_are_read_anew():
    model = draw_model()
    before = generate(model, [1, 2, 3], max_tokens=8, sampling=GREEDY)
    model.blocks[0].attention_norm.weight.neg_()
    model.head.weight.copy_(model.head.weight.flip(0))
    after = generate(model, [1, 2, 3], max_tokens=8, sampling=GREEDY)
    assert after != before
    assert (
        next_token_logits(model, [[1, 2, 3]], model.new_cache(1, 3)).argmax()
        == model(torch.tensor([[1, 2, 3]])).logits[0, -1].argmax()
    )


def test_changes_while_a_cache_lives_are_seen():
    """Hooks, functions, written, replaced and re-pointed weights, between two tokens of one text."""
    model, called = draw_model(tie_embeddings=False), []

    def hook(*_):
        called.append(1)

    def ones(norm):
        norm.weight = nn.Parameter(torch.ones(64) * 3, requires_grad=False)

    changes = {
        "hook": lambda: model.blocks[0].register_forward_pre_hook(hook),
        "forward": lambda: setattr(model.final_norm, "forward", lambda x: 2 * x),
        "written": lambda: model.blocks[0].attention.q_proj.weight.mul_(-2),
        "replaced": lambda: ones(model.blocks[2].feed_forward_norm),
        "re-pointed": lambda: setattr(model.head.weight, "data", model.head.weight.data.flip(0)),
        "module": lambda: model.set_submodule("final_norm", nn.Identity()),
    }
    for name, change in changes.items():
        model = draw_model(tie_embeddings=False)
        cache = model.new_cache(1, 8)
        before = next_token_logits(model, [[1, 2, 3]], cache)
        cache.length = 2
        change()
        after = next_token_logits(model, [[3]], cache)
        assert called if name == "hook" else not torch.allclose(after, before, rtol=1e-3), name


def test_rows_without_a_place_in_the_cache_are_refused():
    model = draw_model()
    for rows, cached in ((2, 1), (1, 3)):
        with pytest.raises(UserError, match=f"{rows} sequences with a cache of {cached}"):
            next_token_logits(model, [[1, 2]] * rows, model.new_cache(cached, 8))
    cache = BatchingEngine(model).cache
    with pytest.raises(UserError, match="2 tokens in 0 pages"):
        next_token_logits(model, [[1, 2]], cache.batch([cache.begin([1, 2])]))


def test_trained_rows_can_be_disabled():
    model, context = draw_model(), [[1, 2, 3]]
    plain = next_token_logits(model, context, model.new_cache(1, 3))
    for rows in add_trainable_tokens(model, [2]).values():
        rows.delta.data.fill_(1.0)
    assert not torch.equal(next_token_logits(model, context, model.new_cache(1, 3)), plain)
    with adapter_disabled(model):
        torch.testing.assert_close(
            next_token_logits(model, context, model.new_cache(1, 3)), plain, rtol=1e-4, atol=1e-4
        )


def test_hooks_are_called():
    model, called = draw_model(), []
    model.blocks[1].register_forward_hook(lambda *_: called.append(1))
    generate(model, [1, 2, 3], max_tokens=2)
    assert called == [1, 1]
    handle = nn.modules.module.register_module_forward_hook(lambda *_: called.append(2))  # of all modules
    try:
        generate(draw_model(), [1, 2, 3], max_tokens=2)
    finally:
        handle.remove()
    assert 2 in called


@pytest.mark.parametrize(
    "sizes",
    [
        {"norm": "layernorm"},
        {"feed_forward": "gelu"},
        {"position_embedding": "alibi"},
        {"position_embedding": "learned"},
        {"qk_norm": True, "qk_norm_type": "unweighted"},
    ],
    ids=str,
)
def test_other_models_run_module_by_module(sizes):
    model = draw_model(**sizes)
    assert decode_step.find_step(model) is None
    assert len(generate(model, [1, 2, 3], max_tokens=3)) == 3
