"""Merging of models: each method against its formula for every weight alone; refusals."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from groundup.artifacts.errors import UserError
from groundup.cli import app
from groundup.finetune.lora import apply_lora
from groundup.interop.adapters import lora_layers, save_adapter
from groundup.interop.model_merging import merge_models
from groundup.model import Decoder, load_model, save_model
from groundup.quantize import open_model
from groundup.recipe import ModelConfig
from groundup.tokenizer.tokenizer_training import train_bpe

SHAPE = {"vocab_size": 260, "hidden_size": 16, "num_layers": 1, "num_heads": 2, "context_length": 16}
NAME = "blocks.0.feed_forward.up_proj.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("merging")
    torch.manual_seed(0)
    base = Decoder(ModelConfig(**SHAPE))
    for name in ("base", "left", "right"):
        save_model(base, root / name)
        train_bpe([], 260).save(root / name)
        with torch.no_grad():
            for parameter in base.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    for name in ("one", "two"):
        model = load_model(root / "base")
        apply_lora(model, 2, 4.0)
        for layer in lora_layers(model).values():
            torch.nn.init.normal_(layer.lora_b)
        save_adapter(model, root / name, base=str(root / "base"))
    return root


def weight_of(path: Path) -> torch.Tensor:
    return open_model(path, "cpu")[0].get_parameter(NAME).detach()


def ties_of_one(base: float, parts: list[float], trimmed: list[bool], weights: list[float]) -> float:
    changes = [0.0 if gone else w * (part - base) for part, gone, w in zip(parts, trimmed, weights, strict=True)]
    sign = 1 if sum(changes) > 0 else -1
    chosen = [(change, w) for change, w in zip(changes, weights, strict=True) if change * sign > 0]
    return base + sum(change for change, _ in chosen) / sum(w for _, w in chosen) if chosen else base


def test_linear_and_task_arithmetic(folder, tmp_path):
    merge_models([folder / "left", folder / "right"], tmp_path / "mean", weights=[0.7, 0.3])
    left, right, base = (weight_of(folder / name) for name in ("left", "right", "base"))
    torch.testing.assert_close(weight_of(tmp_path / "mean"), 0.7 * left + 0.3 * right)
    options = {"method": "task-arithmetic", "base": folder / "base"}
    merge_models([folder / "left", folder / "right"], tmp_path / "sum", weights=[0.5, 2], **options)
    torch.testing.assert_close(weight_of(tmp_path / "sum"), base + 0.5 * (left - base) + 2 * (right - base))


def test_ties_equals_the_formula_for_each_weight(folder, tmp_path):
    weights = [1.0, 0.5]
    options = {"method": "ties", "base": folder / "base", "density": 0.4, "weights": weights}
    merge_models([folder / "left", folder / "right"], tmp_path / "ties", **options)
    base, *parts = (weight_of(folder / name).flatten() for name in ("base", "left", "right"))
    kept = [set((part - base).abs().topk(round(0.4 * len(base))).indices.tolist()) for part in parts]
    expected = [
        ties_of_one(base[i].item(), [part[i].item() for part in parts], [i not in each for each in kept], weights)
        for i in range(len(base))
    ]
    torch.testing.assert_close(weight_of(tmp_path / "ties").flatten(), torch.tensor(expected), rtol=1e-4, atol=1e-6)


def test_adapters_are_merged_by_command(folder, tmp_path):
    paths = [str(folder / name) for name in ("one", "two")]
    options = ["--base", str(folder / "base"), "--method", "task-arithmetic", "--weights", "0.7,0.3"]
    result = CliRunner().invoke(app, ["merge", *paths, *options, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    base, one, two = (weight_of(folder / name) for name in ("base", "one", "two"))
    torch.testing.assert_close(weight_of(tmp_path / "out"), base + 0.7 * (one - base) + 0.3 * (two - base))


def test_what_cannot_be_merged_is_refused(folder, tmp_path):
    other = tmp_path / "other"
    save_model(Decoder(ModelConfig(**SHAPE | {"hidden_size": 32})), other)
    train_bpe([], 260).save(other)
    paths = [folder / "left", folder / "right"]
    cases = [
        ([folder / "left", other], {}, "another configuration.*hidden_size"),
        (paths, {"weights": [0.7]}, "1 weights for 2 models"),
        (paths, {"weights": [0.7, 0.7]}, "the sum 1.4, expected 1"),
        (paths, {"method": "ties"}, "base is missing"),
        (paths, {"base": folder / "base"}, "base is for task-arithmetic"),
        (paths, {"method": "slerp"}, "expected one of linear, task-arithmetic, ties"),
    ]
    for given, options, message in cases:
        with pytest.raises(UserError, match=message):
            merge_models(given, tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()
