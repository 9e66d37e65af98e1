"""Rotary embeddings: relative scores, scaling, float32 frequencies."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from groundup.artifacts.errors import UserError
from groundup.generate.generation import remaining_context
from groundup.model import build_model
from groundup.model.rope import RotaryEmbedding, rotate
from groundup.recipe import ModelConfig
from groundup.recipe.model_config import RopeScalingConfig

LINEAR = RopeScalingConfig(method="linear", factor=4.0)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 500), st.integers(0, 500), st.integers(0, 3000), st.integers(1, 8))
def test_scores_depend_on_the_distance_only(first, second, shift, pairs):
    rotary = RotaryEmbedding(2 * pairs, 10_000.0, 4096)
    query, key = torch.randn(2, 1, 1, 1, 2 * pairs, dtype=torch.float64)

    def product(i: int, j: int) -> torch.Tensor:
        turned = [rotate(x, rotary(torch.tensor([p]))) for x, p in ((query, i), (key, j))]
        return (turned[0] * turned[1]).sum()

    torch.testing.assert_close(product(first, second), product(first + shift, second + shift), rtol=0, atol=2e-3)


def test_rotation_is_complex_multiplication():
    x, positions = torch.randn(1, 2, 5, 8), torch.arange(5)
    rotary = RotaryEmbedding(8, 100.0, 16)
    pairs = torch.complex(x[..., :4], x[..., 4:])
    turned = pairs * torch.polar(torch.ones(5, 4), positions[:, None] * rotary.frequencies)
    torch.testing.assert_close(rotate(x, rotary(positions)), torch.cat((turned.real, turned.imag), dim=-1))


def test_positions_per_sequence():
    rotary, x = RotaryEmbedding(8, 100.0, 16), torch.randn(2, 3, 4, 8)
    positions = torch.tensor([[0, 1, 2, 3], [2, 3, 0, 1]])
    both = rotate(x, rotary(positions))
    for row in range(2):
        torch.testing.assert_close(both[row : row + 1], rotate(x[row : row + 1], rotary(positions[row])))


def test_linear_scaling_divides_positions():
    plain, slow = RotaryEmbedding(8, 100.0, 16), RotaryEmbedding(8, 100.0, 16, LINEAR)
    torch.testing.assert_close(slow(torch.tensor([12])), plain(torch.tensor([3])))


@pytest.mark.parametrize("move", [lambda m: m.to(torch.bfloat16), lambda m: m.half(), lambda m: m.double()])
def test_frequencies_stay_float32(move):
    rotary = RotaryEmbedding(8, 10_000.0, 1 << 20)
    before = rotary(torch.tensor([1_000_003]))
    after = move(torch.nn.Sequential(rotary))[0](torch.tensor([1_000_003]))
    assert torch.equal(before.cos, after.cos)


def test_meta_model_gets_its_frequencies():
    with torch.device("meta"):
        rotary = RotaryEmbedding(8, 100.0, 16, LINEAR)
    rotary.to_empty(device="cpu")
    assert torch.equal(rotary.frequencies, RotaryEmbedding(8, 100.0, 16, LINEAR).frequencies)


DYNAMIC = ModelConfig(
    vocab_size=40, hidden_size=64, num_layers=2, num_heads=1, context_length=48,
    rope_scaling={"method": "dynamic", "factor": 4.0, "original_context_length": 12},
)  # fmt: skip


def test_dynamic_scaling_follows_the_length_of_each_document():
    """Rows and documents of other lengths do not change the answer for a text."""
    model = build_model(DYNAMIC).eval()
    tokens = torch.randint(40, (2, 40))
    documents = torch.tensor([[1] * 7 + [2] * 20 + [3] * 13, [1] * 40])
    together = model(tokens, document_ids=documents).logits
    for row, begin, end in ((0, 0, 7), (0, 7, 27), (0, 27, 40), (1, 0, 40)):
        alone = model(tokens[row : row + 1, begin:end]).logits
        torch.testing.assert_close(together[row : row + 1, begin:end], alone, rtol=0, atol=1e-5)


def test_dynamic_scaling_ends_a_cache_at_the_original_length():
    model = build_model(DYNAMIC).eval()
    tokens = torch.randint(40, (1, 13))
    cache = model.new_cache(1)
    cached = torch.cat([model(tokens[:, i : i + 1], cache=cache).logits for i in range(12)], dim=1)
    torch.testing.assert_close(cached, model(tokens[:, :12]).logits, rtol=0, atol=1e-5)
    with pytest.raises(
        UserError, match="13 tokens with a key/value cache, expected at most original_context_length = 12"
    ):
        model(tokens[:, 12:], cache=cache)
    assert remaining_context(model, [1] * 9) == 3
    with pytest.raises(
        UserError, match="expected at most 11: the model's context_length before dynamic RoPE scaling is 12"
    ):
        remaining_context(model, [1] * 12)


def test_yarn_of_a_short_original_length():
    """The ramp of transformers may be reversed: all pairs are then unchanged."""
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4, "rope_theta": 10000.0}
    theirs = LlamaRotaryEmbedding(LlamaConfig(head_dim=64, rope_parameters=scaling, max_position_embeddings=16))
    config = RopeScalingConfig(method="yarn", factor=4.0, original_context_length=4)
    torch.testing.assert_close(RotaryEmbedding(64, 10000.0, 16, config).frequencies, theirs.inv_freq)
