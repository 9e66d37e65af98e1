"""AutoRound: learned rounding lowers the error of a block's outputs, and that of the model on other text."""

import pytest
import torch

from groundup.artifacts.progress import ProgressTask
from groundup.model import build_model
from groundup.quantize.block_methods import METHODS
from groundup.quantize.calibration import BlockCalibration, iter_blocks, linear_layers
from groundup.quantize.float_comparison import compare_with_float
from groundup.quantize.methods.autoround import RoundingStart, learn_rounding
from groundup.quantize.quantization_grid import QuantizationScheme, round_to_nearest
from groundup.quantize.quantizer import QuantizationSettings, quantize_model
from groundup.recipe import ModelConfig


def rounding_starts(calibration, scheme):
    weights = {name: layer.weight.detach() for name, layer in linear_layers(calibration.block).items()}
    return {name: RoundingStart(round_to_nearest(weight, scheme), weight) for name, weight in weights.items()}


def relative_error(calibration, weights):
    """Of each token, and its mean: slow and obvious."""
    tensors = {name: weight.dequantize() for name, weight in weights.items()}
    total, count = 0.0, 0
    for row in range(len(calibration.windows)):
        found = calibration.run(slice(row, row + 1), tensors)[0]
        for token, target in zip(found, calibration.float_outputs[row], strict=True):
            total += ((token - target).norm() / target.norm()).item() ** 2
            count += 1
    return total / count


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_error_of_a_block_falls(decoder, windows, symmetric):
    calibration = next(iter_blocks(decoder, windows[:4], with_float_outputs=True))
    starts, losses = rounding_starts(calibration, QuantizationScheme(3, 32, symmetric)), []
    weights = learn_rounding(
        calibration, calibration.float_outputs, starts, steps=24, on_step=lambda step, loss: losses.append(loss)
    )
    before = relative_error(calibration, {name: start.weight for name, start in starts.items()})
    assert relative_error(calibration, weights) < 0.8 * before
    assert len(losses) == 24
    for name, weight in weights.items():
        start = starts[name]
        assert weight.scheme == start.weight.scheme
        assert torch.equal(weight.zero, start.weight.zero)
        assert weight.codes.max() <= 7
        ratio = weight.scale.float() / start.weight.scale.float()
        assert ((ratio - 1).abs() < 0.11).all()
        moved = (weight.codes.int() - start.weight.codes.int()).abs().float()
        assert 0 < moved.mean() < 0.5


def test_the_start_is_kept_where_learning_does_not_help(decoder, windows):
    """Targets that the start already reaches."""
    calibration = next(iter_blocks(decoder, windows[:2]))
    starts = rounding_starts(calibration, QuantizationScheme(8, 32))
    with torch.no_grad():
        targets = calibration.run(slice(None), {name: start.weight.dequantize() for name, start in starts.items()})
    weights = learn_rounding(calibration, targets, starts, steps=3)
    assert all(weights[name] is start.weight for name, start in starts.items())


@pytest.mark.parametrize("bits", [3, 4])
def test_closer_to_the_float_model_than_gptq(make_decoder, copy_of, bits):
    model = make_decoder(num_kv_heads=2)
    text = torch.randint(0, 260, (24, 64), generator=torch.Generator().manual_seed(5))
    other = torch.randint(0, 260, (8, 64), generator=torch.Generator().manual_seed(9))
    models = {}
    for method in ("gptq", "autoround"):
        models[method] = copy_of(model)
        quantize_model(models[method], QuantizationSettings(method, QuantizationScheme(bits, 32)), text)
    found = compare_with_float(model, models, other, ProgressTask("comparing", None, "tokens"))
    assert found["autoround"].kl_divergence < found["gptq"].kl_divergence


@pytest.mark.parametrize("architecture", ["decoder", "encoder", "encoder_decoder"])
def test_float_outputs_are_those_of_the_float_model(windows, architecture):
    torch.manual_seed(0)
    sizes = {"vocab_size": 264, "hidden_size": 32, "num_layers": 2, "num_heads": 2, "context_length": 64}
    model = build_model(ModelConfig(architecture=architecture, **sizes)).eval()
    expected = {each.name: each.outputs() for each in iter_blocks(model, windows)}
    for calibration in iter_blocks(model, windows, with_float_outputs=True):
        torch.testing.assert_close(calibration.float_outputs, expected[calibration.name])
        for layer in linear_layers(calibration.block).values():
            layer.weight.data.zero_()


def test_experts_without_tokens(make_decoder):
    """In no step, or only in some."""
    model = make_decoder(num_layers=1, moe={"num_experts": 4, "experts_per_token": 1, "intermediate_size": 32})
    with torch.no_grad():
        router = model.blocks[0].feed_forward.router.weight
        router[1:3] = -router[0]
    windows = torch.randint(0, 260, (3, 24), generator=torch.Generator().manual_seed(5))
    settings = QuantizationSettings("autoround", QuantizationScheme(4, 32), rounding_steps=3)
    assert len(quantize_model(model, settings, windows)) == 4 + 3 * 4


def test_progress_of_each_step(decoder, windows):
    said = []
    calibration = next(iter_blocks(decoder, windows[:2], with_float_outputs=True))
    settings = QuantizationSettings("autoround", QuantizationScheme(4, 32), rounding_steps=2)
    assert len(list(METHODS["autoround"](calibration, settings, said.append))) == 7
    assert [line.split(",")[0] for line in said] == ["blocks.0: step 1", "blocks.0: step 2"]


def test_the_seed_orders_the_windows(make_decoder, windows, monkeypatch):
    run, read = BlockCalibration.run, []

    def record(self, rows, weights=None):
        if weights and torch.is_grad_enabled():  # a step
            read.append(rows.start)
        return run(self, rows, weights)

    monkeypatch.setattr(BlockCalibration, "run", record)
    for seed in (1, 1, 2):
        settings = QuantizationSettings("autoround", QuantizationScheme(3, 32), rounding_steps=3, seed=seed)
        quantize_model(make_decoder(num_layers=1), settings, windows)
    assert read[:3] == read[3:6] != read[6:]
    assert sorted(read[:3]) == sorted(read[6:]) == [0, 10, 20]
