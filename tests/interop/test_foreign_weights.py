"""Hugging Face folders as people save them: names of wrappers, other dtypes, adapters, broken values."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.interop import export_huggingface, load_huggingface
from groundup.model import Decoder
from groundup.recipe import ModelConfig

MATRIX = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def model() -> Decoder:
    torch.manual_seed(0)
    return Decoder(ModelConfig(vocab_size=40, hidden_size=24, num_layers=2, num_heads=3, init_std=0.3)).eval()


@pytest.fixture
def folder(tmp_path: Path, model: Decoder) -> Path:
    export_huggingface(model, None, tmp_path)
    return tmp_path


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    file = folder / "model.safetensors"
    weights = {name: tensor.clone() for name, tensor in load_file(file).items()}
    save_file(change(weights), file)


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: name.replace("model.layers.0.", "model.layers.0._orig_mod."),
        lambda name: f"base_model.model.{name}",
        lambda name: f"base_model.model.{name}".replace("q_proj.", "q_proj.base_layer."),
        lambda name: f"module.{name}",
        lambda name: f"module.base_model.model._orig_mod.{name}",
    ],
)
def test_names_of_wrapped_models_are_read(folder: Path, model: Decoder, rename: Callable[[str], str]):
    rewrite(folder, lambda weights: {rename(name): tensor for name, tensor in weights.items()})
    tokens = torch.arange(12)[None]
    assert torch.equal(load_huggingface(folder)(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("asked", [None, torch.float32])
def test_weights_of_every_floating_dtype(folder: Path, model: Decoder, dtype: torch.dtype, asked: torch.dtype | None):
    rewrite(folder, lambda weights: {name: tensor.to(dtype) for name, tensor in weights.items()})
    opened = load_huggingface(folder, dtype=asked)
    expected = torch.float32 if dtype == torch.float64 else dtype
    assert {weight.dtype for weight in opened.parameters()} == {asked or expected}
    tokens = torch.arange(12)[None]
    assert torch.allclose(opened(tokens).logits.float(), model(tokens).logits, atol=0.2)


def adapter(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    weights = {f"base_model.model.{name}": tensor for name, tensor in weights.items()}
    return weights | {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight": torch.ones(2, 24)}


def with_value(value: float) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    def change(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        weights[MATRIX][3, 5] = value
        return weights

    return change


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        (with_value(float("nan")), rf"tensor {MATRIX} has 1 of 1,536 values that are NaN or infinite", "earlier checkpoint"),
        (with_value(float("-inf")), rf"tensor {MATRIX} has 1 of 1,536 values that are NaN or infinite", "damaged"),
        (
            lambda weights: weights | {MATRIX: weights[MATRIX].to(torch.int8)},
            rf"tensor {MATRIX} is int8, expected floating point: quantized weights, but no quantization_config",
            "config.json",
        ),
        (
            lambda weights: weights | {MATRIX: weights[MATRIX].to(torch.float8_e4m3fn)},
            rf"tensor {MATRIX} is float8_e4m3fn, expected floating point",
            "config.json",
        ),
        (adapter, r"tensor base_model\S+lora_A\S+ belongs to an adapter", "merge_and_unload"),
        (
            lambda weights: weights | {f"_orig_mod.{MATRIX}": weights[MATRIX].clone()},
            rf"tensors _orig_mod.{MATRIX} and {MATRIX} are both {MATRIX}|tensors {MATRIX} and _orig_mod.{MATRIX}",
            "save the model itself",
        ),
    ],
)  # fmt: skip
def test_weights_that_are_refused(folder: Path, change: Callable, message: str, hint: str):
    rewrite(folder, change)
    with pytest.raises(UserError, match=message) as refusal:
        load_huggingface(folder)
    assert hint in str(refusal.value.hint)


def test_weights_that_do_not_fit_into_float16(folder: Path):
    rewrite(folder, with_value(1e5))
    assert load_huggingface(folder, dtype=torch.bfloat16)
    with pytest.raises(UserError, match=r"1 of 1,536 values do not fit into torch\.float16"):
        load_huggingface(folder, dtype=torch.float16)
