"""The dtype in which commands compute: that of the files where the machine is fast at it, or the one that is asked for."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from groundup.artifacts.errors import UserError
from groundup.cli import app
from groundup.model import Decoder, save_model
from groundup.model.serialization import weight_dtype
from groundup.quantize import open_model, quantize_folder
from groundup.recipe import ModelConfig
from groundup.tokenizer.tokenizer_training import train_bpe


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    model = Decoder(ModelConfig(vocab_size=260, hidden_size=32, num_layers=1, num_heads=2, context_length=64))
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        save_model(model.to(dtype), folder / name)
        train_bpe([], 260).save(folder / name)
    quantize_folder(folder / "float32", folder / "packed", method="rtn", bits=4, group_size=32, device="cpu")
    return folder


def with_instructions(monkeypatch, *names: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(names, True))


@pytest.mark.parametrize(("instructions", "found"), [((), "float32"), (("avx512_bf16",), "bfloat16")])
def test_auto_is_the_dtype_of_the_files_where_it_is_fast(folders, monkeypatch, instructions, found):
    with_instructions(monkeypatch, *instructions)
    assert weight_dtype(open_model(folders / "bfloat16", "cpu", dtype="auto")[0]) == found
    assert weight_dtype(open_model(folders / "bfloat16", "cpu")[0]) == "bfloat16"
    assert weight_dtype(open_model(folders / "float32", "cpu", dtype="auto")[0]) == "float32"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_quantized_model_computes_in_the_dtype(folders, dtype):
    model, _ = open_model(folders / "packed", "cpu", dtype=dtype)
    assert {str(each.dtype) for each in model.parameters()} == {f"torch.{dtype}"}
    with torch.inference_mode():
        assert str(model(torch.tensor([[1, 2, 3]])).logits.dtype) == f"torch.{dtype}"


def test_auto_is_float32_for_a_quantized_model_where_bfloat16_is_slow(folders, monkeypatch, tmp_path):
    quantize_folder(
        folders / "bfloat16", tmp_path / "packed", method="rtn", bits=4, group_size=32, device="cpu", verify=False
    )
    with_instructions(monkeypatch)
    assert weight_dtype(open_model(tmp_path / "packed", "cpu", dtype="auto")[0]) == "float32"
    assert weight_dtype(open_model(tmp_path / "packed", "cpu")[0]) == "bfloat16"


def test_commands_take_and_show_it(folders, tmp_path):
    (tmp_path / "text.txt").write_text("Some words to score.")
    options = ["--text", str(tmp_path / "text.txt"), "--json", "--device", "cpu"]
    for dtype in ("float32", "bfloat16"):
        result = CliRunner().invoke(app, ["evaluate", str(folders / "float32"), *options, "--dtype", dtype])
        assert json.loads(result.stdout)["dtype"] == dtype, result.output
    with pytest.raises(UserError, match="int3"):
        open_model(folders / "float32", "cpu", dtype="int3")
