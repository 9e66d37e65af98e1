"""Linear attention by the gated delta rule, against a loop over tokens."""

import pytest
import torch
from pydantic import ValidationError

from groundup.model import StaticKVCache, build_model
from groundup.model.gated_delta import gated_delta_rule
from groundup.plan.shape.parameter_count import count_parameters
from groundup.recipe import ModelConfig

CONFIG = {
    "vocab_size": 31, "hidden_size": 24, "num_layers": 3, "num_heads": 2, "context_length": 96, "qk_norm": True,
    "norm": "zero_centered_rmsnorm", "attention_gate": True, "attention_pattern": ("linear", "global"),
    "gated_delta": {"num_key_heads": 2, "num_value_heads": 4, "key_head_dim": 6, "value_head_dim": 5},
}  # fmt: skip


def loop(queries, keys, values, rates, strengths, state):
    """The equations of the module's docstring, one token after another, for one head."""
    outputs = []
    for q, k, v, rate, b in zip(queries, keys, values, rates, strengths, strict=True):
        q, k = (x / (x @ x + 1e-6).sqrt() for x in (q, k))
        state = rate.exp() * state
        state = state + torch.outer(k, b * (v - state.T @ k))
        outputs.append(state.T @ (q / len(q) ** 0.5))
    return torch.stack(outputs), state


@pytest.mark.parametrize("chunk_length", [1, 7, 64])
def test_chunks_equal_a_loop_over_tokens(chunk_length):
    torch.manual_seed(0)
    queries, keys = torch.randn(2, 1, 20, 2, 6, dtype=torch.float64)
    values, state = torch.randn(1, 20, 4, 5, dtype=torch.float64), torch.randn(1, 4, 6, 5, dtype=torch.float64)
    rates, strengths = -torch.rand(1, 20, 4, dtype=torch.float64), torch.rand(1, 20, 4, dtype=torch.float64)
    outputs, last = gated_delta_rule(queries, keys, values, rates, strengths, state, chunk_length)
    for head in range(4):
        expected, after = loop(
            queries[0, :, head // 2], keys[0, :, head // 2], values[0, :, head], rates[0, :, head],
            strengths[0, :, head], state[0, head],
        )  # fmt: skip
        torch.testing.assert_close(outputs[0, :, head], expected)
        torch.testing.assert_close(last[0, head], after)


def test_cached_equals_uncached_and_parameters_are_counted():
    torch.manual_seed(1)
    config = ModelConfig(**CONFIG)
    model = build_model(config).eval()
    tokens = torch.randint(31, (2, 70))
    expected = model(tokens).logits
    cache = StaticKVCache(config, 2, 70)
    parts = [model(part, cache=cache).logits for part in tokens.split([66, 1, 1, 2], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, rtol=1e-4, atol=1e-5)
    assert sum(weight.numel() for weight in model.parameters()) == count_parameters(config).total


def test_linear_layers_and_their_table_need_each_other():
    for missing in ({"gated_delta": None}, {"attention_pattern": ("global",)}):
        with pytest.raises(ValidationError, match="expected both or none"):
            ModelConfig.model_validate(CONFIG | missing)
