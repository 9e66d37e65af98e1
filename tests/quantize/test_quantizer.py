"""Whole models: replaced layers, errors, dequantized equality, int4 kernel."""

import copy

import pytest
import torch
from torch import nn

from groundup.artifacts.errors import UserError
from groundup.model import build_model
from groundup.plan.checks.stage_support import INTEGER_METHODS
from groundup.quantize import quantize
from groundup.quantize.block_checkpoint import BlockCheckpoint
from groundup.quantize.block_methods import METHOD_SCHEMES
from groundup.quantize.calibration import BlockCalibration, iter_blocks
from groundup.quantize.calibration_windows import evenly_spaced_windows
from groundup.quantize.float_comparison import compare_with_float
from groundup.quantize.layers.packed_layers import packed_layers
from groundup.quantize.layers.quantized_linear import QuantizedLinear, quantized_layers
from groundup.quantize.quantization_grid import QuantizationScheme, round_to_nearest
from groundup.quantize.quantized_folder import load_quantized_folder, save_quantized_folder
from groundup.quantize.quantizer import (
    METHODS,
    QuantizationSettings,
    bits_per_weight,
    dequantize_model,
    quantizable_layers,
    quantize_model,
)
from groundup.recipe import ModelConfig
from groundup.recipe.output_config import QuantizeConfig

SCHEME = QuantizationScheme(4, 32, True)


def settings_of(method, scheme):
    return QuantizationSettings(method, METHOD_SCHEMES.get(method, scheme), rounding_steps=4)


def test_recipe_methods_match_implementations():
    annotation = QuantizeConfig.model_fields["method"].annotation
    assert set(annotation.__args__) == set(METHODS)


@pytest.mark.parametrize("method", INTEGER_METHODS)
@pytest.mark.parametrize("bits", [4, 8])
def test_quantized_layers_are_those_of_the_blocks(decoder, windows, copy_of, method, bits):
    names = list(quantizable_layers(decoder))
    small = copy_of(decoder)
    errors = quantize_model(small, settings_of(method, QuantizationScheme(bits, 32)), windows)
    assert list(quantized_layers(small)) == names == [name for name in names if name.startswith("blocks.")]
    assert len(names) == 14
    assert sorted(error.layer for error in errors) == sorted(names)
    assert torch.equal(small.embedding.tokens.weight, decoder.embedding.tokens.weight)
    assert type(small.head) is type(decoder.head)
    with torch.no_grad():
        expected, found = decoder(windows).logits, small(windows).logits
    error = (found - expected).norm() / expected.norm()
    assert 0 < error < (0.3 if bits == 4 else 0.02)


@pytest.mark.parametrize("symmetric", [True, False])
def test_gptq_is_closer_to_the_float_model_than_rtn(decoder, windows, copy_of, symmetric):
    models = {}
    for method in ("rtn", "gptq"):
        models[method] = copy_of(decoder)
        errors = quantize_model(
            models[method], QuantizationSettings(method, QuantizationScheme(4, 32, symmetric)), windows
        )
        if method == "gptq":
            assert all(error.error < error.rtn_error for error in errors)
        else:
            assert sum(error.error for error in errors) < sum(error.rtn_error for error in errors)
    other_text = torch.randint(0, 260, (8, 48), generator=torch.Generator().manual_seed(9))
    found = compare_with_float(decoder, models, other_text, _task())
    assert found["gptq"].kl_divergence < 0.9 * found["rtn"].kl_divergence
    assert found["gptq"].top1_agreement > found["rtn"].top1_agreement


def test_calibration_inputs_come_from_quantized_layers(decoder, windows, copy_of):
    """With block 0 replaced by the identity, the inputs of block 1 are the embeddings."""
    inputs = {}
    for calibration in iter_blocks(decoder, windows):
        inputs[calibration.name] = calibration.windows
        if calibration.name == "blocks.0":
            for layer in (calibration.block.attention.o_proj, calibration.block.feed_forward.down_proj):
                layer.weight.data.zero_()
    torch.testing.assert_close(inputs["blocks.1"], inputs["blocks.0"])


def test_layers_by_input(decoder, windows):
    subsets = next(iter(iter_blocks(decoder, windows))).layers_by_input()
    assert [[name.split(".")[1] for name in subset] for subset in subsets] == [
        ["q_proj", "k_proj", "v_proj"],
        ["o_proj"],
        ["gate_proj", "up_proj"],
        ["down_proj"],
    ]


def test_blocks_with_different_attention_masks(make_decoder, windows):
    """Local and global layers: block-by-block calibration equals the forward pass of the model."""
    model = make_decoder(num_layers=3, attention_pattern=("local", "global"), sliding_window=5)
    for calibration in iter_blocks(model, windows):
        last = calibration.outputs()
    with torch.no_grad():
        torch.testing.assert_close(model.final_norm(last), model.hidden_states(windows))


@pytest.mark.parametrize(
    "scheme",
    [SCHEME, QuantizationScheme(4, 32, False), QuantizationScheme(8, 16), QuantizationScheme(8, 32, False)],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quantized_linear_equals_dequantized_linear(scheme, dtype):
    torch.manual_seed(0)
    weight, bias, x = torch.randn(24, 64), torch.randn(24), torch.randn(2, 3, 64).to(dtype)
    codes = round_to_nearest(weight, scheme)
    layer = QuantizedLinear.from_weight(codes, bias)
    expected = nn.functional.linear(x, codes.dequantize().to(dtype), bias.to(dtype))
    assert torch.equal(layer(x), expected)
    found = layer.unpack_weight()
    assert torch.equal(found.codes, codes.codes)
    assert torch.equal(found.zero, codes.zero)
    stored = sum(
        tensor.numel() * tensor.element_size() for name, tensor in layer.state_dict().items() if name != "bias"
    )
    assert stored * 8 == scheme.stored_bits(*weight.shape)


def test_casting_keeps_scales():
    layer = QuantizedLinear.from_weight(round_to_nearest(torch.randn(16, 32), SCHEME), torch.randn(16))
    scale = layer.scale.clone()
    for change in (lambda module: module.to(torch.bfloat16), lambda module: module.float()):
        change(nn.Sequential(layer))
        assert layer.scale.dtype is torch.float16
        assert torch.equal(layer.scale, scale)
    assert layer.to("meta").scale.is_meta
    assert layer.to_empty(device="cpu").scale.dtype is torch.float16


def test_dequantize_model(decoder, windows, copy_of):
    quantize_model(decoder, QuantizationSettings("rtn", SCHEME))
    plain = dequantize_model(copy_of(decoder))
    assert not quantized_layers(plain)
    assert len(quantizable_layers(plain)) == 14
    with torch.no_grad():
        torch.testing.assert_close(plain(windows).logits, decoder(windows).logits)


@pytest.mark.parametrize("method", INTEGER_METHODS)
@pytest.mark.parametrize(("bits", "group_size"), [(3, 64), (4, -1), (5, 40), (2, 16)])
def test_any_width_bits_and_group_size(make_decoder, windows, method, bits, group_size):
    model = make_decoder(hidden_size=48, num_heads=3, intermediate_size=88)
    with torch.no_grad():
        expected = model(windows).logits
    quantize_model(model, settings_of(method, QuantizationScheme(bits, group_size)), windows)
    for layer in quantized_layers(model).values():
        stored = sum(t.numel() * t.element_size() for name, t in layer.state_dict().items() if name != "bias")
        assert stored * 8 == layer.scheme.stored_bits(layer.out_features, layer.in_features)
    assert bits < bits_per_weight(model) < bits + 1.5
    with torch.no_grad():
        found = model(windows).logits
    assert (found - expected).norm() / expected.norm() < {2: 1.4, 3: 0.7, 4: 0.35, 5: 0.2}[bits]


def test_layers_may_have_schemes_of_their_own(decoder, windows, tmp_path):
    name = "blocks.1.feed_forward.down_proj"
    settings = QuantizationSettings("gptq", SCHEME, layer_schemes={name: QuantizationScheme(6, 48, False)})
    quantize_model(decoder, settings, windows)
    schemes = {name: layer.scheme for name, layer in quantized_layers(decoder).items()}
    assert schemes.pop(name) == QuantizationScheme(6, 48, False)
    assert set(schemes.values()) == {SCHEME}
    save_quantized_folder(decoder, tmp_path, "gptq")
    again = load_quantized_folder(tmp_path)
    assert {n: layer.scheme for n, layer in quantized_layers(again).items()} == schemes | {
        name: settings.scheme_of(name)
    }
    with torch.no_grad():
        assert torch.equal(again(windows).logits, decoder(windows).logits)


MOE = {"num_experts": 4, "experts_per_token": 2, "intermediate_size": 40, "num_shared_experts": 1}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("expert_bias", [False, True])
def test_experts_are_quantized(make_decoder, windows, copy_of, tmp_path, method, expert_bias):
    moe = MOE | ({"expert_bias": True, "num_shared_experts": 0} if expert_bias else {})
    model = make_decoder(moe=moe)
    names = [name for name, p in model.named_parameters() if ".experts." in name and p.ndim == 3]
    float_model = copy_of(model)
    errors = quantize_model(model, settings_of(method, QuantizationScheme(8, 32)), windows)
    experts = [name for name in packed_layers(model) if ".experts." in name]
    assert len(experts) == 4 * len(names) == 24
    assert {error.layer for error in errors} == set(packed_layers(model))
    assert all(type(block.feed_forward.router).__name__ == "Router" for block in model.blocks)
    save_quantized_folder(model, tmp_path, method)
    plain = dequantize_model(load_quantized_folder(tmp_path))
    assert plain.state_dict().keys() == float_model.state_dict().keys()
    with torch.no_grad():
        expected, found = float_model(windows).logits, model(windows).logits
        if method != "smoothquant":  # which rounds the inputs too
            torch.testing.assert_close(plain(windows).logits, found)
    assert (found - expected).norm() / expected.norm() < (0.3 if method == "nf4" else 0.1)


def test_experts_with_few_tokens_have_the_statistics_of_all(make_decoder):
    model = make_decoder(moe=MOE)
    with torch.no_grad():
        model.blocks[0].feed_forward.router.weight[1:] = -model.blocks[0].feed_forward.router.weight[0]
    windows = torch.randint(0, 260, (1, 24), generator=torch.Generator().manual_seed(5))
    errors = quantize_model(model, QuantizationSettings("gptq", SCHEME), windows)
    notes = {error.layer: error.note for error in errors}
    assert notes["blocks.0.feed_forward.experts.gate_proj.3"].endswith("tokens: statistics of all experts")
    assert not notes["blocks.0.attention.q_proj"]
    assert all(0 <= error.error < 0.1 for error in errors)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("architecture", ["encoder", "encoder_decoder"])
def test_encoders_and_encoder_decoders(windows, copy_of, tmp_path, method, architecture):
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=264, hidden_size=64, num_layers=2, num_heads=4, context_length=64, architecture=architecture
    )
    model = build_model(config).eval()
    float_model = copy_of(model)
    errors = quantize_model(model, settings_of(method, QuantizationScheme(8, 32)), windows)
    assert {error.layer for error in errors} == set(packed_layers(model)) == set(quantizable_layers(float_model))
    assert all(error.error < 0.02 for error in errors)
    save_quantized_folder(model, tmp_path, method)
    again = load_quantized_folder(tmp_path)
    inputs = {"tokens": windows} | ({"decoder_tokens": windows[:, :9]} if architecture == "encoder_decoder" else {})
    with torch.no_grad():
        expected, found = float_model(**inputs).logits, model(**inputs).logits
        assert torch.equal(again(**inputs).logits, found)
    assert 0 < (found - expected).norm() / expected.norm() < (0.2 if method == "nf4" else 0.05)


def test_blocks_of_an_encoder_decoder_are_walked_as_in_its_forward_pass(windows):
    torch.manual_seed(0)
    sizes = {"vocab_size": 264, "hidden_size": 32, "num_layers": 2, "num_heads": 2, "context_length": 64}
    model = build_model(ModelConfig(architecture="encoder_decoder", **sizes)).eval()
    last = list(iter_blocks(model, windows, windows[:, :11]))[-1]
    with torch.no_grad():
        hidden = model.decoder.final_norm(last.outputs())
        torch.testing.assert_close(model.head(hidden), model(windows, decoder_tokens=windows[:, :11]).logits)


def test_quantize_texts_equals_quantize_model(decoder, byte_tokenizer, copy_of):
    text = "the quick brown fox jumps over the lazy dog. " * 40
    model, expected = copy_of(decoder), copy_of(decoder)
    errors = quantize(
        model, byte_tokenizer, [text[:900], text[900:]], method="awq", group_size=32, calibration_tokens=512
    )
    settings = QuantizationSettings("awq", QuantizationScheme(4, 32, False))
    windows = evenly_spaced_windows(byte_tokenizer.encode(text), 64, 512)
    assert errors == quantize_model(expected, settings, windows)
    for (name, tensor), other in zip(model.state_dict().items(), expected.state_dict().values(), strict=True):
        assert torch.equal(tensor, other), name
    with pytest.raises(UserError, match="needs calibration text"):
        quantize(copy_of(decoder))
    with pytest.raises(UserError, match=r"method = .gguf."):
        quantize(copy_of(decoder), method="gguf")


def test_user_errors(decoder):
    with pytest.raises(UserError, match="needs calibration text"):
        quantize_model(decoder, QuantizationSettings("gptq", SCHEME))
    quantize_model(decoder, QuantizationSettings("rtn", SCHEME))
    with pytest.raises(UserError, match="no float linear layers"):
        quantize_model(decoder, QuantizationSettings("rtn", SCHEME))


def test_quantization_is_deterministic(decoder, windows, copy_of):
    first, second = copy_of(decoder), copy_of(decoder)
    for model in (first, second):
        quantize_model(model, QuantizationSettings("gptq", SCHEME), windows)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_quantization_goes_on_after_its_finished_blocks(make_decoder, windows, tmp_path, monkeypatch, method):
    knobs = {"moe": MOE, "feed_forward_bias": False}
    expected, model = make_decoder(**knobs), make_decoder(**knobs)
    settings = settings_of(method, QuantizationScheme(3, 48))
    errors = quantize_model(expected, settings, windows)
    with monkeypatch.context() as patch:
        patch.setattr(BlockCheckpoint, "restore", _raise_at(BlockCheckpoint.restore, "blocks.1"))
        with pytest.raises(KeyboardInterrupt):
            quantize_model(model, settings, windows, checkpoint=tmp_path / "blocks")
    assert [path.name for path in (tmp_path / "blocks").iterdir()] == ["blocks.0.safetensors"]
    again, passes = make_decoder(**knobs), []
    monkeypatch.setattr(BlockCalibration, "input_stats", _counted(BlockCalibration.input_stats, passes))
    assert quantize_model(again, settings, windows, checkpoint=tmp_path / "blocks") == errors
    assert set(passes) == {"blocks.1"}
    for (name, tensor), other in zip(expected.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(tensor, other), name
    other_text = make_decoder(**knobs)
    quantize_model(other_text, settings, windows[1:], checkpoint=tmp_path / "blocks")
    assert "blocks.0" in passes


def _raise_at(function, name):
    def call(self, block_name, block):
        if block_name == name:
            raise KeyboardInterrupt
        return function(self, block_name, block)

    return call


def _counted(function, calls):
    def call(self, names):
        calls.append(self.name)
        return function(self, names)

    return call


def test_compare_with_float(decoder, windows):
    other = copy.deepcopy(decoder)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.9)
    found = compare_with_float(decoder, {"same": decoder, "other": other}, windows, _task())
    with torch.no_grad():
        loss = decoder(windows, labels=windows).loss.item()
    assert found["float"].loss == pytest.approx(loss, rel=1e-5)
    assert found["same"].kl_divergence == 0
    assert found["same"].top1_agreement == 1
    assert (found["same"].loss_difference, found["same"].loss_difference_interval) == (0, [0, 0])
    difference = found["other"].loss - found["float"].loss
    assert found["other"].loss_difference == pytest.approx(difference, rel=1e-6)
    low, high = found["other"].loss_difference_interval
    assert low < difference < high
    assert found["float"].bits_per_byte(2.0) == pytest.approx(loss / 0.6931472 / 2, rel=1e-4)


def _task():
    from groundup.artifacts.progress import ProgressTask

    return ProgressTask("comparing", None, "tokens")
