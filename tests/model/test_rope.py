"""Rotary embeddings: relative scores, scaling, float32 frequencies."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.model.rope import RotaryEmbedding, rotate
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
