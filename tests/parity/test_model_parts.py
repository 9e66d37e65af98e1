"""Modules of the model against transformers, at odd shapes."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, MixtralConfig, T5Config
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding, apply_rotary_pos_emb
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock, load_balancing_loss_func
from transformers.models.t5.modeling_t5 import T5Attention

from groundup.model.attention import Attention
from groundup.model.loss import linear_cross_entropy
from groundup.model.moe import MixtureOfExperts, pop_aux_loss
from groundup.model.position_encoding import RelativeBias, build_position_encodings
from groundup.model.rope import build_rotary_embedding, rotate
from groundup.recipe import ModelConfig

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SCALINGS = {
    "none": None,
    "linear": {"method": "linear", "factor": 3.0},
    "dynamic": {"method": "dynamic", "factor": 2.0},
    "yarn": {"method": "yarn", "factor": 4.0, "original_context_length": 32},
    "yarn, by hand": {
        "method": "yarn",
        "factor": 7.0,
        "original_context_length": 256,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
        "attention_factor": 1.3,
    },
    "llama3": {"method": "llama3", "original_context_length": 32, **LLAMA3},
}


def configs(heads: int, kv_heads: int, head_dim: int, scaling: dict | None) -> tuple[ModelConfig, LlamaConfig]:
    """The same model, described by us and by them."""
    width = 30
    ours = ModelConfig(
        vocab_size=10,
        hidden_size=width,
        num_layers=1,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        context_length=64,
        rope_theta=5000.0,
        rope_scaling=scaling,
    )
    reference: dict = {"rope_type": "default", "rope_theta": 5000.0}
    if scaling is not None:
        renamed = {"method": "rope_type", "original_context_length": "original_max_position_embeddings"}
        reference |= {renamed.get(name, name): value for name, value in scaling.items()}
    config = LlamaConfig(
        hidden_size=width,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        max_position_embeddings=64,
        rope_parameters=reference,
        attn_implementation="eager",
    )
    return ours, config


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("head_dim", [6, 32])
@pytest.mark.parametrize("length", [20, 150])
def test_rotary_positions(name, head_dim, length):
    ours, reference = configs(3, 1, head_dim, SCALINGS[name])
    query, key = torch.randn(1, 3, length, head_dim), torch.randn(1, 1, length, head_dim)
    positions = torch.arange(length)
    cos, sin = LlamaRotaryEmbedding(reference)(query, positions[None])
    expected = apply_rotary_pos_emb(query, key, cos, sin)
    rotation = build_rotary_embedding(ours, "global")(positions)
    for found, expected_values in zip((rotate(query, rotation), rotate(key, rotation)), expected, strict=True):
        torch.testing.assert_close(found, expected_values, rtol=0, atol=5e-5)


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(5, 5, 6), (6, 2, 4), (3, 1, 10)])
def test_attention(heads, kv_heads, head_dim):
    ours, reference = configs(heads, kv_heads, head_dim, None)
    part, peer = Attention(ours, 0), LlamaAttention(reference, 0)
    peer.load_state_dict(part.state_dict())
    x, positions = torch.randn(2, 9, 30), torch.arange(9)
    later = torch.full((9, 9), -torch.inf).triu(1)[None, None]
    expected, _ = peer(x, LlamaRotaryEmbedding(reference)(x, positions[None]), later)
    view = build_position_encodings(ours, ours.layer_types, causal=True)["global"](positions)
    torch.testing.assert_close(part(x, view), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("buckets", "distance"), [(32, 128), (10, 21)])
def test_relative_bias(causal, buckets, distance):
    ours = ModelConfig(
        vocab_size=10,
        hidden_size=30,
        num_layers=1,
        num_heads=5,
        position_embedding="relative",
        relative_buckets=buckets,
        relative_max_distance=distance,
    )
    peer_config = T5Config(
        d_model=30,
        d_kv=6,
        num_heads=5,
        relative_attention_num_buckets=buckets,
        relative_attention_max_distance=distance,
        is_decoder=causal,
    )
    bias, peer = (RelativeBias(ours, causal), T5Attention(peer_config, has_relative_attention_bias=True, layer_idx=0))
    peer.relative_attention_bias.weight = bias.weight
    torch.testing.assert_close(bias(torch.arange(200), torch.arange(200)), peer.compute_bias(200, 200)[0])


def experts(**knobs) -> tuple[MixtureOfExperts, MixtralSparseMoeBlock]:
    """The same mixture of experts, ours and reference, with random weights."""
    config = ModelConfig(
        vocab_size=10,
        hidden_size=14,
        num_layers=1,
        num_heads=1,
        intermediate_size=11,
        moe={"num_experts": 7, "experts_per_token": 3} | knobs,
    )
    assert config.moe is not None
    ours = MixtureOfExperts(config, config.moe)
    for weight in ours.parameters():
        nn.init.normal_(weight, std=0.3)
    reference = MixtralSparseMoeBlock(
        MixtralConfig(hidden_size=14, intermediate_size=11, num_local_experts=7, num_experts_per_tok=3)
    )
    with torch.no_grad():
        reference.gate.weight.copy_(ours.router.weight)
        reference.experts.gate_up_proj.copy_(torch.cat((ours.experts.gate_proj, ours.experts.up_proj), dim=1))
        reference.experts.down_proj.copy_(ours.experts.down_proj)
    return ours, reference


def test_mixture_of_experts():
    ours, reference = experts()
    x = torch.randn(2, 13, 14, requires_grad=True)
    expected, found = reference(x), ours(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    weight = torch.randn_like(expected)
    expected_values = torch.autograd.grad(
        (expected * weight).sum(), [x, reference.gate.weight, reference.experts.down_proj]
    )
    given = torch.autograd.grad((found * weight).sum(), [x, ours.router.weight, ours.experts.down_proj])
    for one, other in zip(given, expected_values, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_auxiliary_loss():
    ours, reference = experts(load_balancing="auxiliary_loss", load_balancing_rate=1.0)
    x = torch.randn(2, 13, 14)
    ours(x)
    expected = [load_balancing_loss_func((reference.gate(sequence)[0],), 7, 3) for sequence in x]
    torch.testing.assert_close(pop_aux_loss(ours), torch.stack(expected).mean())


def test_cross_entropy_of_a_large_vocabulary():
    hidden, weight = torch.randn(9, 8, requires_grad=True), torch.randn(128_000, 8, requires_grad=True)
    labels = torch.randint(128_000, (9,))
    expected = nn.functional.cross_entropy(hidden @ weight.T, labels)
    found = linear_cross_entropy(hidden, weight, labels, chunk_size=4)
    torch.testing.assert_close(found, expected)
    for ours, reference in zip(
        torch.autograd.grad(found, (hidden, weight)), torch.autograd.grad(expected, (hidden, weight)), strict=True
    ):
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-5)
