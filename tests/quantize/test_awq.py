"""AWQ: scales keep the model's outputs and reduce the error of outlier channels."""

from typing import Any

import pytest
import torch

from groundup.quantize.calibration import InputStats, linear_layers, output_error
from groundup.quantize.layers.quantized_experts import split_experts
from groundup.quantize.methods.awq import apply_scales, channel_scales, scale_groups, search_scales
from groundup.quantize.quantization_grid import QuantizationScheme, round_to_nearest


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"num_kv_heads": 2},
        {"norm": "layernorm", "norm_bias": True, "feed_forward_bias": True, "attention_bias": "all"},
        {"norm": "zero_centered_rmsnorm", "norm_placement": "sandwich"},
        {"feed_forward": "gelu"},
        {"norm_placement": "parallel", "feed_forward": "gelu"},
        {"norm_placement": "parallel", "shared_norm": True},
        {"qk_norm": True},
        {"moe": {"num_experts": 4, "experts_per_token": 2, "num_shared_experts": 1, "shared_expert_gate": True}},
        {"moe": {"num_experts": 4, "experts_per_token": 1, "expert_bias": True, "router_bias": True}},
        {"feed_forward": "swiglu_clamped"},
        {"attention_gate": True, "num_kv_heads": 2},
    ],
    ids=str,
)
def test_applied_scales_keep_the_model_outputs(make_decoder, windows, knobs):
    model = make_decoder(**knobs)
    with torch.no_grad():
        expected = model(windows).logits
        split_experts(model)
        for block in model.blocks:
            layers = linear_layers(block)
            for fold in scale_groups(block):
                apply_scales(fold, layers, fold.pool(torch.rand(layers[fold.layers[0]].in_features) + 0.5))
        found = model(windows).logits
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-4)


def test_scale_groups_of_each_block_type(make_decoder):
    def places(**knobs):
        return [fold.layers[0].split(".")[1] for fold in scale_groups(make_decoder(**knobs).blocks[0])]

    assert places() == ["q_proj", "o_proj", "gate_proj", "down_proj"]
    assert places(num_kv_heads=2) == ["q_proj", "o_proj", "gate_proj", "down_proj"]
    assert places(feed_forward="gelu") == ["q_proj", "o_proj", "up_proj"]  # gelu(x / s) is not gelu(x) / s
    assert places(norm_placement="post") == []
    assert places(feed_forward="swiglu_clamped") == ["q_proj", "o_proj", "gate_proj"]  # up + 1 is no factor
    assert places(norm_placement="parallel", shared_norm=True) == ["q_proj", "o_proj", "down_proj"]


@pytest.mark.parametrize("symmetric", [True, False])
def test_awq_beats_rtn_with_outlier_channels(symmetric):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2000, 128, generator=generator)
    inputs[:, [3, 50, 97]] *= 40
    weight = torch.randn(64, 128, generator=generator) * 0.02
    moments, scheme = InputStats(128), QuantizationScheme(4, 64, symmetric)
    moments.add(inputs)
    scales, power = search_scales([weight], moments, scheme)
    ours = round_to_nearest(weight * scales, scheme).dequantize() / scales
    nearest = round_to_nearest(weight, scheme).dequantize()
    assert power > 0
    assert output_error(weight, ours, moments.hessian) < output_error(weight, nearest, moments.hessian) / 2


def test_uniform_inputs_get_power_zero():
    moments = InputStats(32)
    moments.add(torch.ones(10, 32) * torch.tensor([1.0, -1.0]).repeat(16))
    scales, _ = search_scales([torch.randn(8, 32)], moments, QuantizationScheme(4, 32))
    torch.testing.assert_close(scales, torch.ones(32))


def test_channel_scales_are_normalized():
    scales = channel_scales(torch.tensor([0.01, 1.0, 50.0]), 0.7)
    assert (scales.max() * scales.min()).item() == pytest.approx(1)
    assert torch.equal(channel_scales(torch.rand(5) + 1, 0.0), torch.ones(5))


@pytest.mark.parametrize("norm", ["rmsnorm", "zero_centered_rmsnorm", "layernorm"])
def test_scales_folded_into_a_bfloat16_norm_lose_nothing(make_decoder, norm):
    """The layers are multiplied by what the norm, rounded to bfloat16, was divided by."""
    block = make_decoder(norm=norm).bfloat16().blocks[0]
    layers = linear_layers(block)
    for layer in layers.values():
        layer.float()
    group = scale_groups(block)[0]
    preceding: Any = group.preceding
    with torch.no_grad():
        preceding.weight.normal_(generator=torch.Generator().manual_seed(0))
    offset = float(norm.startswith("zero"))
    norms, before = preceding.weight.float() + offset, layers["attention.q_proj"].weight.clone()
    wanted = torch.rand(len(norms), generator=torch.Generator().manual_seed(1)) + 0.5
    applied = apply_scales(group, layers, wanted)
    assert preceding.weight.dtype == torch.bfloat16
    products = (preceding.weight.float() + offset) * layers["attention.q_proj"].weight
    torch.testing.assert_close(products, norms * before, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(applied, wanted, rtol=0.01, atol=0.1)
