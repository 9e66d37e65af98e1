"""Conversion of weights to Megatron's layout and back, bit for bit, for any number of ranks."""

import pytest
import torch
from equivalence import build_toy_model, config_of

from groundup.train.engines.megatron_weights import build_weight_rules, from_megatron, to_megatron


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen", "moe"])
def test_round_trip_is_exact(name, ranks):
    config, weights = config_of(name), dict(build_toy_model(name).named_parameters())
    parts = [to_megatron(weights, config, rank, ranks) for rank in range(ranks)]
    back = from_megatron(parts, config)
    assert back.keys() == weights.keys()
    for key, weight in weights.items():
        assert torch.equal(back[key], weight), key


def test_every_weight_has_one_rule():
    for name in ("llama", "gpt2", "qwen"):
        ours = [own for rule in build_weight_rules(config_of(name)).values() for own in rule.sources]
        assert sorted(ours) == sorted(dict(build_toy_model(name).named_parameters()))


def test_heads_are_grouped_by_key_head():
    """Two key heads and four query heads of size 8: queries 0 and 1, key 0, value 0, then the second group."""
    config, weights = config_of("llama"), dict(build_toy_model("llama").named_parameters())
    merged = to_megatron(weights, config, 0, 1)["decoder.layers.0.self_attention.linear_qkv.weight"]
    query, key, value = (weights[f"blocks.0.attention.{part}_proj.weight"] for part in "qkv")
    expected = [query[:16], key[:8], value[:8], query[16:], key[8:], value[8:]]
    assert torch.equal(merged, torch.cat(expected))


def test_second_rank_has_its_rows_of_gate_and_up():
    config, weights = config_of("llama"), dict(build_toy_model("llama").named_parameters())
    second = to_megatron(weights, config, 1, 2)["decoder.layers.3.mlp.linear_fc1.weight"]
    gate, up = (weights[f"blocks.3.feed_forward.{part}_proj.weight"] for part in ("gate", "up"))
    assert torch.equal(second, torch.cat([gate[24:], up[24:]]))
