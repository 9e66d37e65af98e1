"""Methods with one scheme: NF4, float8, and SmoothQuant with inputs in 8 bits."""

import json

import pytest
import torch
from torch import nn

from groundup.artifacts.errors import UserError
from groundup.plan.checks.stage_support import METHOD_BITS, check_quantization
from groundup.quantize.block_methods import METHOD_SCHEMES, METHODS
from groundup.quantize.calibration import iter_blocks, linear_layers
from groundup.quantize.kernels.kernel_choice import use_kernels
from groundup.quantize.layers.float8 import quantize_float8
from groundup.quantize.layers.int8_linear import EXACT_COLUMNS, INT8_INPUTS, Int8Linear, float_product
from groundup.quantize.layers.nf4 import quantize_nf4
from groundup.quantize.layers.packed_layers import make_layer, packed_layers
from groundup.quantize.methods.smoothquant import smoothing_scales
from groundup.quantize.model_exporter import export_model
from groundup.quantize.model_loader import open_model
from groundup.quantize.quantization_grid import round_to_nearest
from groundup.quantize.quantized_folder import load_quantized_folder, save_quantized_folder
from groundup.quantize.quantizer import QuantizationSettings, bits_per_weight, quantize_model
from groundup.recipe.output_config import QuantizeConfig


@pytest.mark.parametrize("method", METHOD_SCHEMES)
@pytest.mark.parametrize("text", [True, False])
def test_a_folder_holds_what_was_quantized(decoder, windows, tmp_path, method, text):
    settings = QuantizationSettings(method, METHOD_SCHEMES[method])
    if not text and method == "smoothquant":
        with pytest.raises(UserError, match="method = smoothquant needs calibration text"):
            quantize_model(decoder, settings)
        return
    with torch.no_grad():
        expected = decoder(windows).logits
    errors = quantize_model(decoder, settings, windows if text else None)
    assert len(errors) == (14 if text else 0)
    assert bits_per_weight(decoder) - METHOD_BITS[method] < 0.3
    save_quantized_folder(decoder, tmp_path, method)
    again = load_quantized_folder(tmp_path)
    assert {layer.scheme for layer in packed_layers(again).values()} == {METHOD_SCHEMES[method]}
    with torch.no_grad():
        found = decoder(windows).logits
        assert torch.equal(again(windows).logits, found)
    assert 0 < (found - expected).norm() / expected.norm() < (0.3 if method == "nf4" else 0.06)
    assert list(packed_layers(use_kernels(again))) == list(
        packed_layers(decoder)
    )  # none of them weights of an integer kernel


def test_float8_is_the_nearest_number_of_the_format():
    """Against all 256 numbers."""
    torch.manual_seed(0)
    weight = torch.randn(4, 40) * torch.tensor([1e-7, 0.02, 1.0, 300.0])[:, None]
    found = quantize_float8(weight)
    numbers = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    numbers = numbers[numbers.isfinite()]
    for row, scale, values in zip(weight, found.scale.float(), found.dequantize(), strict=True):
        grid = numbers * scale
        distance = (row[:, None] - grid).abs().amin(1)
        torch.testing.assert_close((row - values).abs(), distance)
    relative = (found.dequantize() - weight)[1:].abs() / weight[1:].abs()
    assert relative[weight[1:].abs() > 1e-2 * weight[1:].abs().amax(1, keepdim=True)].max() <= 1 / 16
    scale = found.scale.float()
    assert torch.equal(scale.bfloat16().float(), scale)
    layer = make_layer(found, torch.randn(4))
    x = torch.randn(3, 40)
    assert torch.equal(layer(x), nn.functional.linear(x, found.dequantize(), layer.bias))
    assert torch.equal(layer.bfloat16().dequantize(), found.dequantize())
    with pytest.raises(UserError, match="not finite"):
        quantize_float8(torch.full((2, 2), torch.nan))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_of_whole_numbers(dtype):
    torch.manual_seed(0)
    x = (torch.randn(2, 5, 1536) * 30).to(dtype)
    x[0, 0] = 0
    layer = Int8Linear.from_weight(round_to_nearest(torch.randn(24, 1536), INT8_INPUTS), torch.randn(24))
    weight, expected = layer.dequantize().double(), torch.empty(2, 5, 24, dtype=torch.float64)
    for row in range(2):
        for token in range(5):
            vector = x[row, token].double()
            step = vector.abs().max() / 127 if vector.any() else 1.0
            expected[row, token] = weight @ ((vector / step).round() * step) + layer.bias.double()
    found = layer(x)
    assert found.dtype is dtype
    assert (found.double() - expected).norm() / expected.norm() < (1e-5 if dtype is torch.float32 else 3e-3)
    torch.testing.assert_close(layer(x[:1, 1:2]), found[:1, 1:2])  # a single row
    gradient = torch.autograd.grad(layer(x.requires_grad_()).sum(), x)[0]
    torch.testing.assert_close(gradient.float(), weight.sum(0).float().expand(2, 5, -1), rtol=2e-2, atol=2e-1)
    error = (found.double() - x.detach().double() @ weight.T - layer.bias.double()).norm() / expected.norm()
    assert 0 < error < 0.02


def test_products_in_float32_are_exact_part_by_part():
    """As on devices that have neither products of whole numbers nor float64: the largest codes, in more than one part."""
    codes = torch.full((2, 2 * EXACT_COLUMNS), 127.0)
    codes[1] = torch.randint(-127, 128, (2 * EXACT_COLUMNS,), generator=torch.Generator().manual_seed(0))
    weight = torch.full((3, 2 * EXACT_COLUMNS), -128, dtype=torch.int8)
    weight[1:, ::2] = torch.arange(EXACT_COLUMNS).sub(128).remainder(255).to(torch.int8)
    weight[:, 1] = 1
    assert torch.equal(float_product(codes, weight), (codes.double() @ weight.double().T).float())


def test_smoothing_moves_outliers_from_inputs_to_weights():
    torch.manual_seed(0)
    inputs, weight = torch.randn(500, 64), torch.randn(32, 64) * 0.02
    inputs[:, [3, 40]] *= 60
    scales = smoothing_scales([weight], inputs.abs().amax(0))
    smooth = inputs / scales
    torch.testing.assert_close(smooth.abs().amax(0), (weight * scales).abs().amax(0))
    plain = Int8Linear.from_weight(round_to_nearest(weight, INT8_INPUTS))
    ours = Int8Linear.from_weight(round_to_nearest(weight * scales, INT8_INPUTS))
    expected = inputs @ weight.T
    assert (ours(smooth) - expected).norm() < (plain(inputs) - expected).norm() / 2
    assert torch.equal(smoothing_scales([weight], torch.zeros(64)), torch.ones(64))


def test_a_smoothed_block_has_the_outputs_of_the_float_block(make_decoder, windows):
    model = make_decoder(num_kv_heads=2)
    calibration = next(iter_blocks(model, windows))
    expected = calibration.outputs()
    settings = QuantizationSettings("smoothquant", INT8_INPUTS)
    before = {name: layer.weight.clone() for name, layer in linear_layers(calibration.block).items()}
    layers = list(METHODS["smoothquant"](calibration, settings, lambda line: None))
    torch.testing.assert_close(calibration.outputs(), expected, rtol=1e-3, atol=1e-3)
    assert all(
        not torch.equal(before[layer.name], calibration.block.get_submodule(layer.name).weight) for layer in layers
    )


def test_nf4_is_that_of_qlora(decoder, windows):
    weight = decoder.blocks[0].attention.q_proj.weight.detach().clone()
    quantize_model(decoder, QuantizationSettings("nf4", METHOD_SCHEMES["nf4"]), windows)
    assert torch.equal(decoder.blocks[0].attention.q_proj.codes, quantize_nf4(weight).codes)


@pytest.mark.parametrize(
    ("method", "format", "stored"),
    [
        ("smoothquant", "compressed-tensors", "int-quantized"),
        ("float8", "compressed-tensors", "float-quantized"),
        ("nf4", "bitsandbytes", None),
    ],
)
def test_files_of_other_software_hold_the_same_weights(make_decoder, byte_tokenizer, tmp_path, method, format, stored):
    model = make_decoder(num_kv_heads=2)
    text = torch.randint(0, 260, (4, 32), generator=torch.Generator().manual_seed(5))
    quantize_model(model, QuantizationSettings(method, METHOD_SCHEMES[method]), text)
    save_quantized_folder(model, tmp_path / "small", method)
    byte_tokenizer.save(tmp_path / "small")
    exported = export_model(tmp_path / "small", tmp_path / "out", format=format, dtype="float32")
    assert exported.notes == []
    assert exported.max_logit_difference < 1e-4
    described = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    if stored is not None:
        assert described["format"] == stored
        inputs = described["config_groups"]["group_0"]["input_activations"]
        assert (inputs is not None) == (method == "smoothquant")
    again, _ = open_model(tmp_path / "out", "cpu")
    if method != "float8":  # read as floating point
        assert {layer.scheme for layer in packed_layers(again).values()} == {METHOD_SCHEMES[method]}
    for other in {"gptq", "awq"} if method != "nf4" else ():
        with pytest.raises(UserError, match=f"which the {other} format has no form for"):
            export_model(tmp_path / "small", tmp_path / other, format=other)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"method": "nf4", "bits": 3}, "quantize.bits = 3 with quantize.method = nf4, which has 4 bits"),
        ({"method": "float8", "bits": 4}, "which has 8 bits"),
        ({"method": "smoothquant", "group_size": 64}, "quantize.group_size = 64 with quantize.method = smoothquant"),
        ({"method": "nf4", "size": "90MB"}, "quantize.size = 90mb with quantize.method = nf4"),
        ({"method": "gptq", "rounding_steps": 9}, "quantize.rounding_steps = 9 with quantize.method = gptq"),
        ({"method": "awq", "act_order": False}, "use the method gptq or autoround"),
    ],
)
def test_contradictions_are_refused_before_anything_runs(knobs, message):
    with pytest.raises(UserError) as raised:
        check_quantization(QuantizeConfig(**knobs))
    assert message in f"{raised.value.message} {raised.value.hint}"
