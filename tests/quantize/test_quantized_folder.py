"""Quantized folders: saving, loading, damage; and the quantization stage."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.artifacts.manifest import list_files
from groundup.model import save_model
from groundup.quantize import export_model, open_model, quantize_folder
from groundup.quantize.block_checkpoint import BlockCheckpoint
from groundup.quantize.calibration_windows import concatenated_windows, evenly_spaced_windows
from groundup.quantize.kernels.int4_cpu import Int4Linear
from groundup.quantize.quantization_grid import QuantizationScheme
from groundup.quantize.quantized_folder import load_quantized_folder, save_quantized_folder
from groundup.quantize.quantizer import QuantizationSettings, quantize_model
from groundup.quantize.stage import run
from groundup.recipe.output_config import QuantizeConfig
from groundup.tokenizer.token_shards import ShardWriter

VARIED = " ".join(f"{number} times {number % 7} is {number * (number % 7)}." for number in range(300))
TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness. "


@pytest.mark.parametrize("scheme", [QuantizationScheme(4, 32), QuantizationScheme(8, 16, False)], ids=str)
@pytest.mark.parametrize("knobs", [{}, {"tie_embeddings": True, "attention_bias": "all", "norm": "layernorm"}], ids=str)
def test_save_load_round_trip(make_decoder, windows, tmp_path, scheme, knobs):
    model = make_decoder(**knobs)
    quantize_model(model, QuantizationSettings("rtn", scheme))
    save_quantized_folder(model, tmp_path, "rtn")
    again = load_quantized_folder(tmp_path)
    assert not any(tensor.is_meta for tensor in [*again.parameters(), *again.buffers()])
    assert not any(parameter.requires_grad for parameter in again.parameters())
    with torch.no_grad():
        assert torch.equal(model(windows).logits, again(windows).logits)


def test_open_model_uses_the_int4_kernel(decoder, byte_tokenizer, tmp_path):
    quantize_model(decoder, QuantizationSettings("rtn", QuantizationScheme(4, 32)))
    save_quantized_folder(decoder, tmp_path, "rtn")
    byte_tokenizer.save(tmp_path)
    model, tokenizer = open_model(str(tmp_path), device="cpu")
    assert any(isinstance(module, Int4Linear) for module in model.modules())
    assert tokenizer.vocab_size == 260


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "quantization.json").write_text("{"), "not valid JSON"),
        (lambda f: _edit(f, bits=9), "bits = 9"),
        (lambda f: _edit(f, bits=3), "expected shape"),
        (lambda f: _edit(f, layers=["blocks.9.attention.q_proj"]), "no such linear layer"),
        (lambda f: _edit(f, group_size=16), "expected shape"),
        (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-100]), "safetensors"),
        (lambda f: (f / "model.safetensors").unlink(), "no weights"),
    ],
)  # fmt: skip
def test_damaged_folder_is_refused(decoder, byte_tokenizer, tmp_path, damage, message):
    quantize_model(decoder, QuantizationSettings("rtn", QuantizationScheme(4, 32)))
    save_quantized_folder(decoder, tmp_path, "rtn")
    byte_tokenizer.save(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        open_model(tmp_path, device="cpu")


def test_quantize_folder_and_export(decoder, byte_tokenizer, tmp_path):
    plain, small = tmp_path / "plain", tmp_path / "small"
    save_model(decoder, plain)
    byte_tokenizer.save(plain)
    text = tmp_path / "text.txt"
    text.write_text(VARIED)
    facts = quantize_folder(plain, small, calibration=[text], device="cpu", calibration_tokens=1024, eval_tokens=512)
    assert facts["text_origin"] == "files"
    assert facts["bytes"]["after"] < facts["bytes"]["before"] * 0.6  # half of so small a model is its vocabulary
    assert facts["mean_error"] < facts["mean_rtn_error"]
    with pytest.raises(UserError, match="exists and is not empty"):
        quantize_folder(plain, small, method="rtn")
    assert (tmp_path / "out" / "config.json") in export_model(small, tmp_path / "out", format="gptq").files
    with pytest.raises(UserError, match="the weights are not quantized"):
        export_model(plain, tmp_path / "other", format="gptq")
    assert not list(tmp_path.glob("*.partial"))


def test_killed_export_is_no_folder_and_runs_again(decoder, byte_tokenizer, tmp_path, monkeypatch):
    save_model(decoder, tmp_path / "plain")
    byte_tokenizer.save(tmp_path / "plain")
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(type(byte_tokenizer), "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            export_model(tmp_path / "plain", out, format="huggingface")
    assert not out.exists()
    assert out / "config.json" in export_model(tmp_path / "plain", out, format="huggingface").files
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "plain"]


def test_a_killed_quantization_goes_on_with_equal_bits(decoder, byte_tokenizer, tmp_path, monkeypatch):
    save_model(decoder, tmp_path / "plain")
    byte_tokenizer.save(tmp_path / "plain")
    (tmp_path / "text.txt").write_text(VARIED)
    knobs: dict[str, Any] = {
        "calibration": [tmp_path / "text.txt"],
        "calibration_tokens": 512,
        "eval_tokens": 512,
        "bits": 3,
    }
    quantize_folder(tmp_path / "plain", tmp_path / "whole", **knobs)
    partial, left = tmp_path / "out.partial", tmp_path / "left"
    restored, asked = [], BlockCheckpoint.restore

    def restore(self, name, block):
        if name == "blocks.1" and not left.exists():
            shutil.copytree(partial, left)  # what is there when the process is killed
            raise KeyboardInterrupt
        found = asked(self, name, block)
        restored.append(name) if found is not None else None
        return found

    monkeypatch.setattr(BlockCheckpoint, "restore", restore)
    with pytest.raises(KeyboardInterrupt):
        quantize_folder(tmp_path / "plain", tmp_path / "out", **knobs)
    assert not partial.exists()
    left.rename(partial)
    (partial / "model.safetensors").write_text("half")
    left.mkdir()
    quantize_folder(tmp_path / "plain", tmp_path / "out", **knobs)
    assert restored == ["blocks.0"]
    assert list_files(tmp_path / "out") == list_files(tmp_path / "whole")


def test_evenly_spaced_windows_cover_the_text():
    found = evenly_spaced_windows(np.arange(100), 10, 40)
    assert found.shape == (4, 10)
    assert (found[0, 0].item(), found[-1, -1].item()) == (0, 99)
    assert evenly_spaced_windows(list(range(12)), 10, 1000).shape == (1, 10)
    with pytest.raises(UserError, match="9 tokens of calibration text"):
        evenly_spaced_windows(range(9), 10, 10)


def test_concatenated_windows():
    assert concatenated_windows([[1, 2, 3], [4, 5], [6, 7]], 3, 100).tolist() == [[1, 2, 3], [4, 5, 6]]
    assert concatenated_windows([[1]], 3, 100).shape == (0, 3)


@pytest.fixture
def inputs(make_decoder, byte_tokenizer, tmp_path) -> dict[str, Path]:
    folders = {name: tmp_path / name for name in ("tokenizer", "tokens", "base", "chat")}
    for folder in folders.values():
        folder.mkdir()
    byte_tokenizer.save(folders["tokenizer"])
    for split in ("train", "validation"):
        writer = ShardWriter(
            folders["tokens"], split, vocab_size=260, tokenizer=byte_tokenizer.fingerprint, end_of_text=0
        )
        ids = [*byte_tokenizer.encode(TEXT * 10), 0]
        writer.append(np.array(ids), [len(ids)], ["books"], [len(TEXT) * 10])
        writer.commit(1)
        writer.finish()
    save_model(make_decoder(), folders["chat"])
    byte_tokenizer.save(folders["chat"])
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello to you"}]
    (folders["chat"] / "train.jsonl").write_text((json.dumps({"messages": messages}) + "\n") * 20)
    return folders


@pytest.mark.parametrize("method", ["gptq", "awq", "rtn"])
def test_stage_after_a_killed_attempt_writes_the_same_files(inputs, tmp_path, method):
    section = QuantizeConfig(method=method, calibration_tokens=600, eval_tokens=512, group_size=64)
    recipe = SimpleNamespace(quantize=section, seed=1)
    results = []
    for name in ("first", "second"):
        out = tmp_path / name
        out.mkdir()
        (out / ".fingerprint").write_text("x")
        if name == "second":
            (out / "model.safetensors").write_text("half a fi")
            (out / "left").mkdir()
        metrics = run(recipe, inputs, out, Machine(device="cpu", threads=1))
        results.append((metrics, {n: f["sha256"] for n, f in list_files(out).items()}))
    assert results[0] == results[1]
    metrics = json.loads(json.dumps(results[0][0], allow_nan=False))
    assert metrics["from"] == "chat"
    assert metrics["group_size"] == 64
    low = 4.375 if metrics["symmetric"] is False else 4.25  # zeros of 8 bits
    assert low < metrics["bits_per_weight"] < low + 0.05  # a feed-forward of 96 has a group of 64 and one of 32
    assert set(metrics["held_out"]) == {"float", "rtn", method}
    assert metrics["held_out"]["float"]["kl_divergence"] == 0
    assert metrics["held_out"][method]["kl_divergence"] > 0
    assert metrics["calibration_tokens"]["chat"] > 0
    assert len(metrics["layers"]) == 14
    assert (
        metrics["bytes"]["before"]
        > metrics["bytes"]["after"]
        == (tmp_path / "first" / "model.safetensors").stat().st_size
    )


def _edit(folder: Path, **changes: object) -> None:
    path = folder / "quantization.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
