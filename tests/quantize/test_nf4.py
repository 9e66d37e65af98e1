"""NF4 against slow obvious versions of the paper's equations, and the memory of its layers."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from groundup.artifacts.errors import UserError
from groundup.model import build_model, load_model, save_model
from groundup.quantize.layers.nf4 import dequantize_nf4, dynamic_values, nf4_values, quantize_nf4
from groundup.quantize.layers.nf4_linear import NF4Linear, load_nf4_model, pack_nf4
from groundup.recipe import ModelConfig

PAPER_VALUES = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip
"""Dettmers et al. 2023, appendix E."""


def slow_dynamic_values() -> list[float]:
    """Dettmers et al. 2022, section 1.3: a sign, an exponent in unary, and the midpoints of equal steps of [0.1, 1]."""
    magnitudes = [
        10.0 ** (power - 6) * (0.1 + 0.9 * (step + 0.5) / 2**power) for power in range(7) for step in range(2**power)
    ]
    return sorted([0.0, 1.0, *magnitudes, *[-value for value in magnitudes]])


def slow_round_trip(weight: torch.Tensor) -> torch.Tensor:
    """The represented weights, one block and one scale at a time."""
    blocks = weight.reshape(-1, 64)
    scales = [block.abs().max() for block in blocks]
    mean = torch.stack(scales).mean()
    represented = []
    for start in range(0, len(scales), 256):
        group = [scale - mean for scale in scales[start : start + 256]]
        largest = max(abs(value) for value in group)
        for value in group:
            nearest = min(slow_dynamic_values(), key=lambda level: abs(level - value / largest))
            represented.append(nearest * largest + mean)
    rows = []
    for block, exact, stored in zip(blocks, scales, represented, strict=True):
        normal = [value / exact.item() for value in block.tolist()]
        rows.append([min(PAPER_VALUES, key=lambda level: abs(level - value)) * stored for value in normal])
    return torch.tensor(rows).view_as(weight)


def test_values_are_those_of_the_paper():
    assert torch.allclose(nf4_values(), torch.tensor(PAPER_VALUES), atol=2e-7)
    assert torch.allclose(dynamic_values(), torch.tensor(slow_dynamic_values()), atol=1e-7)
    assert len(dynamic_values()) == 256


def test_round_trip_equals_a_slow_version():
    weight = 0.05 * torch.randn(12, 128, generator=torch.Generator().manual_seed(0))
    weight[3] *= 20
    assert torch.allclose(dequantize_nf4(quantize_nf4(weight)), slow_round_trip(weight), atol=1e-6)


def test_takes_4_bits_and_an_eighth_of_one_for_each_weight():
    quantized = quantize_nf4(torch.randn(512, 512))
    assert 8 * quantized.nbytes / 512**2 == pytest.approx(4.127, abs=1e-3)


def test_half_precision_differs_by_its_rounding_only():
    quantized = quantize_nf4(torch.randn(8, 192))
    exact, half = dequantize_nf4(quantized), dequantize_nf4(quantized, torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.float(), exact, rtol=3 * 2**-8, atol=0)  # of value, scale, product


def test_zeros_stay_zeros():
    weight = torch.randn(4, 64)
    weight[1] = 0
    assert not dequantize_nf4(quantize_nf4(weight))[1].any()


def test_refuses_weights_without_a_block_and_without_a_value():
    with pytest.raises(UserError, match="a multiple of 64"):
        quantize_nf4(torch.randn(3, 32))
    with pytest.raises(UserError, match="not finite"):
        quantize_nf4(torch.full((1, 64), float("nan")))


@pytest.mark.parametrize("bias", [None, torch.randn(48)])
def test_layer_equals_a_linear_layer_in_output_and_gradient(bias):
    layer = NF4Linear(torch.randn(48, 64), bias)
    x = torch.randn(5, 64, requires_grad=True)
    y = torch.randn(5, 64, requires_grad=True)
    with torch.no_grad():
        y.copy_(x)
    upstream = torch.randn(5, 48)
    layer(x).backward(upstream)
    F.linear(y, layer.dequantize(), bias).backward(upstream)
    assert torch.equal(layer(x), F.linear(y, layer.dequantize(), bias))
    assert torch.allclose(x.grad, y.grad, atol=1e-6)


def test_layer_keeps_no_matrix_for_the_backward_pass():
    layer = NF4Linear(torch.randn(256, 256))
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t, lambda t: t):
        layer(torch.randn(2, 256, requires_grad=True))
    assert sum(kept) < 256 * 256


def test_casting_a_model_leaves_its_scales():
    layer = NF4Linear(torch.randn(64, 64))
    before = layer.dequantize()
    assert torch.equal(nn.Sequential(layer).to(torch.bfloat16)[0].dequantize(), before)


def test_a_folder_is_packed_while_it_is_read(tmp_path):
    config = ModelConfig(
        vocab_size=64, hidden_size=64, num_layers=2, num_heads=2, intermediate_size=128, context_length=16
    )
    save_model(build_model(config), tmp_path)
    expected, model = pack_nf4(load_model(tmp_path)), load_nf4_model(tmp_path)
    tokens = torch.arange(16)[None]
    assert torch.allclose(model(tokens).logits, expected(tokens).logits, atol=1e-5)
    assert not any(weight.requires_grad for weight in model.parameters())
    assert {type(module).__name__ for module in model.modules() if hasattr(module, "in_features")} == {"NF4Linear"}
