"""Mixed precision: expected rises against measured ones, and the choice against all choices."""

import copy
import itertools

import pytest
import torch

from groundup.artifacts.errors import UserError
from groundup.model import Decoder
from groundup.quantize.calibration import linear_layers
from groundup.quantize.layers.quantized_linear import quantized_layers
from groundup.quantize.methods.bit_allocation import Choice, choose_schemes, layer_choices
from groundup.quantize.quantization_grid import QuantizationScheme, round_to_nearest
from groundup.quantize.quantized_folder import load_quantized_folder, save_quantized_folder
from groundup.quantize.quantizer import QuantizationSettings, quantize_model
from groundup.recipe import ModelConfig
from groundup.recipe.output_config import QuantizeConfig

SCHEMES = [QuantizationScheme(bits, 16) for bits in (2, 3, 4)]


@pytest.fixture(scope="module")
def model() -> Decoder:
    torch.manual_seed(0)
    return Decoder(ModelConfig(vocab_size=40, hidden_size=32, num_layers=2, num_heads=2, context_length=64)).eval()


def sampled(model: Decoder, count: int) -> torch.Tensor:
    """Windows of the model's own text, at whose likelihood the Fisher information is the curvature."""
    tokens = torch.randint(0, 40, (count, 1), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for _ in range(47):
            tokens = torch.cat([tokens, torch.multinomial(model(tokens).logits[:, -1].softmax(-1), 1)], 1)
    return tokens


def test_expected_rises_are_near_the_divergence_that_rounding_causes(model):
    layers, windows = linear_layers(model), sampled(model, 16)
    choices = layer_choices(model, layers, windows, SCHEMES)
    assert not any(parameter.grad is not None for parameter in model.parameters())
    text = sampled(model, 64)
    with torch.no_grad():
        before = model(text).logits.log_softmax(-1)
        expected, measured = [], []
        for name, layer in layers.items():
            original = layer.weight.detach().clone()
            layer.weight.data.copy_(round_to_nearest(original, SCHEMES[0]).dequantize())
            after = model(text).logits.log_softmax(-1)
            layer.weight.data.copy_(original)
            measured.append(float((before.exp() * (before - after)).sum(-1).mean()))
            expected.append(choices[name][0].rise)
    ratio = torch.tensor(expected) / torch.tensor(measured)
    assert (ratio > 0.25).all()
    assert (ratio < 3).all()
    for of_layer in choices.values():
        assert of_layer[0].rise > of_layer[1].rise > of_layer[2].rise > 0
        assert of_layer[0].bytes < of_layer[1].bytes < of_layer[2].bytes


@pytest.mark.parametrize("seed", range(5))
def test_the_choice_fits_and_no_exchange_of_two_layers_is_better(seed):
    generator = torch.Generator().manual_seed(seed)
    choices = {}
    for index in range(5):
        size, rise = float(torch.rand((), generator=generator)) + 0.5, float(torch.rand((), generator=generator))
        choices[f"l{index}"] = [Choice(scheme, size * scheme.bits, rise * 4.0**-scheme.bits) for scheme in SCHEMES]
    limit = 3.1 * sum(each[0].bytes / 2 for each in choices.values())
    chosen = choose_schemes(choices, limit)
    found = [next(each for each in choices[name] if each.scheme == scheme) for name, scheme in chosen.items()]
    assert sum(each.bytes for each in found) <= limit
    best = min(
        (sum(each.rise for each in every) for every in itertools.product(*choices.values())
         if sum(each.bytes for each in every) <= limit),
    )  # fmt: skip
    uniform = sum(each[1].rise for each in choices.values())
    assert best <= sum(each.rise for each in found) <= min(uniform, 1.3 * best)


@pytest.mark.parametrize("share", [0.35, 0.6])
def test_a_model_of_a_size(model, tmp_path, share):
    """The file is not larger, nearly as large, and nearer to the float model than one with equal bits for all layers."""
    text, other = sampled(model, 48), sampled(model, 64)
    layers = sum(layer.weight.numel() for layer in linear_layers(model).values())
    kept = 4 * (sum(parameter.numel() for parameter in model.parameters()) - layers)
    limit = kept + share * layers + 12_000
    mixed = copy.deepcopy(model)
    settings = QuantizationSettings("rtn", QuantizationScheme(4, 16), max_bytes=limit)
    quantize_model(mixed, settings, text)
    save_quantized_folder(mixed, tmp_path, "rtn")
    size = (tmp_path / "model.safetensors").stat().st_size
    assert 0.9 * limit < size <= limit
    bits = {layer.scheme.bits for layer in quantized_layers(mixed).values()}
    assert len(bits) > 1
    opened = load_quantized_folder(tmp_path)
    with torch.no_grad():
        assert torch.equal(opened(other).logits, mixed(other).logits)


def test_experts_without_tokens_get_a_scheme():
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 32, "num_layers": 1, "num_heads": 2, "context_length": 64}
    mixture = Decoder(
        ModelConfig(**sizes, moe={"num_experts": 8, "experts_per_token": 1, "intermediate_size": 32})
    ).eval()
    window = torch.zeros(1, 4, dtype=torch.int64)  # one token: at most a few experts read it
    settings = QuantizationSettings("rtn", QuantizationScheme(4, 16), max_bytes=1e9)
    quantize_model(mixture, settings, window)
    assert len(quantized_layers(mixture)) == 4 + 3 * 8


def test_size_needs_text_and_a_unit(model):
    settings = QuantizationSettings("rtn", QuantizationScheme(4, 16), max_bytes=1e9)
    with pytest.raises(UserError, match=r"quantize\.size needs calibration text"):
        quantize_model(copy.deepcopy(model), settings)
    assert QuantizeConfig(size="1.5 MiB").size_bytes == 1.5 * 2**20
    with pytest.raises(UserError, match="90MB"):
        QuantizeConfig(size="90")


def test_sizes_at_the_ends():
    choices = {"a": [Choice(SCHEMES[0], 10, 3.0), Choice(SCHEMES[2], 20, 1.0)], "b": [Choice(SCHEMES[0], 5, 1.0)]}
    assert choose_schemes(choices, 1e9)["a"] == SCHEMES[2]
    assert choose_schemes(choices, 15)["a"] == SCHEMES[0]
    with pytest.raises(UserError, match="at the least"):
        choose_schemes(choices, 14)
