"""Planned memory of inference against the tensors of real caches."""

import pytest
import torch

from groundup.generate.paged_kv_cache import PAGE_SIZE, page_bytes
from groundup.generate.quantized_kv_cache import QuantizedKVCache
from groundup.model import StaticKVCache, build_model
from groundup.plan.memory.deployment_estimate import cache_bytes_per_text
from groundup.recipe import ModelConfig

TINY = {"vocab_size": 64, "hidden_size": 64, "num_layers": 4, "num_heads": 4, "context_length": 64}
KINDS = {
    "grouped": {"num_kv_heads": 2},
    "windows": {"sliding_window": 16, "attention_pattern": ("local", "local", "local", "global")},
    "latent": {"head_dim": 24, "latent_attention": {"kv_rank": 32, "rope_head_dim": 8, "value_head_dim": 16}},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("form", "value_bytes"), [(StaticKVCache, 2), (StaticKVCache, 4), (QuantizedKVCache, 1)])
def test_cache_of_a_text(kind, form, value_bytes):
    config = ModelConfig(**TINY | KINDS[kind])
    dtype = torch.float32 if value_bytes == 4 else torch.bfloat16
    planned = cache_bytes_per_text(config, value_bytes=value_bytes)
    cache = form(config, 1, 64, dtype=dtype)
    assert planned == cache.keys.nbytes + cache.values.nbytes
    assert planned == page_bytes(config, form, dtype) * 64 / PAGE_SIZE


def test_states_of_a_state_space_model():
    config = ModelConfig(**TINY | {"head_dim": 16, "state_space": {"state_size": 16}})
    model = build_model(config).bfloat16()
    cache = StaticKVCache(config, 1, 64, dtype=torch.bfloat16)
    model(torch.zeros(1, 9, dtype=torch.long), cache=cache)
    assert cache_bytes_per_text(config) == sum(each.nbytes for pair in cache.layer_states.values() for each in pair)
