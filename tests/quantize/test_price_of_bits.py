"""Comparison with the float model, of all architectures; text for it; the table of methods."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.artifacts.progress import Progress, ProgressTask
from groundup.interop.gguf import load_gguf
from groundup.model import Decoder, Encoder, EncoderDecoder, save_model
from groundup.quantize.calibration_text import calibration_text, distinct_runs
from groundup.quantize.comparison_inputs import comparison_inputs
from groundup.quantize.float_comparison import compare_with_float
from groundup.quantize.method_comparison import _write_gguf, candidate_names, compare_methods
from groundup.quantize.price_table import format_price, format_row, price_heading, worse_than_rounding
from groundup.quantize.quantization_grid import QuantizationScheme
from groundup.quantize.quantizer import QuantizationSettings, quantize_model
from groundup.quantize.stage import run
from groundup.quantize.standalone import quantize, quantize_folder
from groundup.quantize.weight_check import check_weights
from groundup.recipe import ModelConfig
from groundup.recipe.output_config import QuantizeConfig
from groundup.report.quantization_plots import plot_quality_against_size
from groundup.report.sections.quantization_section import quantization_section
from groundup.tokenizer import train_tokenizer
from groundup.tokenizer.special_tokens import SPECIAL_TOKENS, mask_token_names
from groundup.tokenizer.token_shards import ShardWriter

VARIED = " ".join(f"{number} times {number % 7} is {number * (number % 7)}." for number in range(300))
SHAPE = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_layers": 1,
    "num_heads": 2,
    "intermediate_size": 64,
    "context_length": 64,
}
ARCHITECTURES = {
    "encoder": (Encoder, {"architecture": "encoder"}),
    "embedding model": (Encoder, {"architecture": "encoder", "masked_lm_head": False}),
    "encoder_decoder": (EncoderDecoder, {"architecture": "encoder_decoder", "position_embedding": "relative"}),
}


def build(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    kind, knobs = ARCHITECTURES[name]
    model = kind(ModelConfig(**SHAPE | knobs)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3) if parameter.ndim > 1 else None
    return model


@pytest.mark.parametrize("masks", [0, 20])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures_are_compared_by_what_they_predict(name, masks, windows, copy_of):
    windows = windows[:8]
    tokenizer = train_tokenizer(["a b c"], 260 + masks, special_tokens=(*SPECIAL_TOKENS, *mask_token_names(masks)))
    model, small, smaller = build(name), build(name), build(name)
    for each, bits in ((small, 8), (smaller, 3)):
        quantize_model(each, QuantizationSettings("gptq", QuantizationScheme(bits, 32)), windows)
    inputs_of = comparison_inputs(model.config, tokenizer, seed=1)
    assert all(torch.equal(inputs_of(windows)[key], inputs_of(windows)[key]) for key in ("tokens", "labels"))
    found = compare_with_float(model, {"8": small, "3": smaller}, windows, ProgressTask("", None, ""), inputs_of)
    predicts = name == "encoder_decoder" or (name == "encoder" and masks > 0)
    assert (found["3"].kl_divergence is not None) == predicts
    assert (found["3"].cosine is not None) == (name != "encoder_decoder")
    if predicts:
        assert 0 == found["float"].kl_divergence < found["8"].kl_divergence < found["3"].kl_divergence
        low, high = found["3"].kl_interval
        assert low < found["3"].kl_divergence < high
    else:
        assert found["3"].cosine < found["8"].cosine < 1.00001


def test_a_model_of_nan_is_not_close(decoder, windows, copy_of):
    broken = copy_of(decoder)
    broken.final_norm.weight.data[0] = torch.nan
    found = compare_with_float(decoder, {"broken": broken}, windows, ProgressTask("", None, ""))
    assert not found["broken"].kl_divergence < 1


@pytest.mark.parametrize(
    ("value", "words"), [(float("nan"), "1 of 16,896 weights are not finite"), (1e6, "a weight of 1e+06")]
)
def test_weights_are_checked_before_all_else(decoder, byte_tokenizer, value, words):
    decoder.embedding.tokens.weight.data[3, 5] = value
    for call in (lambda: check_weights(decoder), lambda: quantize(decoder, method="rtn")):
        with pytest.raises(UserError, match=f"embedding.tokens.weight: {re.escape(words)}"):
            call()


def test_compared_text_is_other_text(decoder, byte_tokenizer, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text(VARIED)
    questions = [[{"role": "user", "content": f"What is {i * i} and {7 * i}?"}] for i in range(40)]
    rows = [*({"messages": messages} for messages in questions), {"text": "one two"}]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    section = QuantizeConfig(calibration_tokens=100_000, eval_tokens=100_000)
    for path in (tmp_path / "folder", tmp_path / "b.jsonl"):
        found = calibration_text(decoder, byte_tokenizer, {}, section, 0, [path])
        assert found.origin == "files"
        calibrated = {tuple(window) for window in found.windows.tolist()}
        assert not calibrated & {tuple(window) for window in found.compared.tolist()}
        assert found.compared.numel() > 0.15 * found.windows.numel()
        assert found.bytes_per_token == pytest.approx(1.2, abs=0.8)
    assert "below 4,096, more text" in found.warning()


def test_the_seed_draws_the_text(decoder, byte_tokenizer, tmp_path):
    (tmp_path / "a.txt").write_text(" ".join(map(str, range(5000))))
    section = QuantizeConfig(calibration_tokens=512, eval_tokens=512)

    def windows(seed):
        return calibration_text(decoder, byte_tokenizer, {}, section, seed, [tmp_path / "a.txt"]).windows

    assert torch.equal(windows(1), windows(1))
    assert not torch.equal(windows(1), windows(2))


def test_text_that_repeats_itself_is_refused(decoder, byte_tokenizer, tmp_path):
    (tmp_path / "hello.txt").write_text("hello world " * 2000)
    section = QuantizeConfig(calibration_tokens=4096)
    with pytest.raises(UserError, match="with 12 different runs of 4 tokens, expected at least 128"):
        calibration_text(decoder, byte_tokenizer, {}, section, 0, [tmp_path / "hello.txt"])
    calibration_text(
        decoder, byte_tokenizer, {}, section.model_copy(update={"method": "rtn"}), 0, [tmp_path / "hello.txt"]
    )
    assert distinct_runs(torch.arange(20).view(2, 10)) == 14


def test_without_text_a_decoder_writes_its_own(make_decoder, byte_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("groundup.quantize.calibration_text.SAMPLED_TOKENS", 1500)
    save_model(make_decoder(num_layers=1), tmp_path / "plain")
    byte_tokenizer.save(tmp_path / "plain")
    said: list[str] = []
    progress = Progress()
    progress.log = said.append
    summary = quantize_folder(tmp_path / "plain", tmp_path / "small", progress=progress, device="cpu")
    assert summary["text_origin"] == "samples"
    assert "text that the model wrote itself" in said[0]
    with pytest.raises(UserError, match="only a decoder can write its own"):
        calibration_text(build("encoder"), byte_tokenizer, {}, QuantizeConfig(), 0)


def test_methods_side_by_side(make_decoder, byte_tokenizer, tmp_path, monkeypatch):
    measured = []
    monkeypatch.setattr(
        "groundup.quantize.method_comparison.measure_process",
        lambda path, *_: measured.append(path) or {"resident_bytes": 1e7, "tokens_per_second": 9.5},
    )
    save_model(make_decoder(num_layers=1, context_length=128), tmp_path / "plain")
    byte_tokenizer.save(tmp_path / "plain")
    (tmp_path / "a.txt").write_text(VARIED * 2)
    seen: list[dict] = []
    names = candidate_names("rtn,gptq-4", size="0.17MB")
    result = compare_methods(
        tmp_path / "plain", names, device="cpu", calibration=[tmp_path / "a.txt"],
        on_row=seen.append, eval_tokens=2048, calibration_tokens=2048,
    )  # fmt: skip
    rows = result["rows"]
    assert rows == seen == json.loads(json.dumps(rows, allow_nan=False))
    assert [row["name"] for row in rows] == ["float", "rtn-4", "rtn-8", "rtn-0.17MB", "gptq-4"]
    assert len(measured) == 5
    reference, four, eight, sized, gptq = rows
    assert four["bits_per_weight"] < sized["bits_per_weight"] < eight["bits_per_weight"]
    assert four["kl_divergence"] > sized["kl_divergence"] > eight["kl_divergence"]
    assert eight["kl_divergence"] < gptq["kl_divergence"] < four["kl_divergence"]
    assert reference["bytes"] > eight["bytes"] > four["bytes"] == gptq["bytes"]
    assert reference["tasks"]["true continuation"]["items"] >= 4
    lines = [price_heading(), *map(format_row, rows)]
    assert len({len(line) for line in lines}) == 1
    assert "±" in lines[2]
    picture = plot_quality_against_size(rows)
    assert all(f">{label}<" in picture for label in ("rtn 4", "rtn 8", "gptq 4", "float"))
    assert plot_quality_against_size(rows[:1]) is None


def test_a_method_that_is_worse_than_rounding_is_said(make_decoder, byte_tokenizer, tmp_path, monkeypatch):
    said = []
    save_model(make_decoder(num_layers=1), tmp_path / "plain")
    byte_tokenizer.save(tmp_path / "plain")
    (tmp_path / "a.txt").write_text(VARIED)
    monkeypatch.setattr(Progress, "log", lambda self, line: said.append(line))
    quantize_folder(tmp_path / "plain", tmp_path / "small", calibration=[tmp_path / "a.txt"], method="float8")
    assert [line for line in said if line.startswith("warning: float8 comes out worse than plain rounding, KL ")]
    scores = {"kl_divergence": 0.1}
    assert worse_than_rounding("gptq", scores, {"kl_divergence": 0.2}) is None
    assert worse_than_rounding("gptq", {"cosine": 0.9}, {"cosine": 1.0}) is None


def test_candidate_names():
    assert candidate_names(None, (4,)) == ["rtn-4", "gptq-4", "awq-4", "autoround-4", "nf4-4"]
    assert candidate_names("float8,nf4,gptq,awq-80MB", (3,), "90MB") == [
        "gptq-3", "gptq-90MB", "awq-80MB"
    ]  # fmt: skip
    assert candidate_names("nf4,smoothquant") == ["nf4-4", "smoothquant-8"]
    assert candidate_names("gptq-3, rtn")[:2] == ["gptq-3", "rtn-4"]
    assert "gguf-q8_0" in candidate_names("gguf")


def test_gguf_types_are_compared_with_the_values_of_the_file(tmp_path):
    """In the dtype of the float model, not through bfloat16, which would add to the error of 8 bits."""
    tokenizer, model = train_tokenizer(["some text to learn"] * 9, 270), Decoder(ModelConfig(**SHAPE)).eval()
    found, _ = _write_gguf("gguf-q8_0", model, tokenizer, SimpleNamespace(windows=None), tmp_path, Progress())
    exact = load_gguf(tmp_path / "model.gguf", dtype="float32")[0].state_dict()
    assert all(torch.equal(weight, exact[name]) for name, weight in found.state_dict().items())


@pytest.mark.parametrize("name", ["encoder", "encoder_decoder"])
def test_stage_of_other_architectures_and_its_report(name, tmp_path, monkeypatch):
    tokenizer = train_tokenizer(["a b c"], 280, special_tokens=(*SPECIAL_TOKENS, *mask_token_names(20)))
    tokens, base, out = (tmp_path / part for part in ("tokens", "base", "out"))
    for folder in (tokens, base, out):
        folder.mkdir()
    save_model(build(name), base)
    tokenizer.save(base)
    for split in ("train", "validation"):
        writer = ShardWriter(tokens, split, vocab_size=280, tokenizer=tokenizer.fingerprint, end_of_text=0)
        ids = [*tokenizer.encode(VARIED[:3000] if split == "train" else VARIED[3000:5000]), 0]
        writer.append(np.array(ids), [len(ids)], ["numbers"], [3000])
        writer.commit(1)
        writer.finish()
    section = QuantizeConfig(bits=3, calibration_tokens=1024, eval_tokens=512)
    inputs = {"tokens": tokens, "base": base}
    metrics = run(SimpleNamespace(quantize=section, seed=1), inputs, out, Machine(device="cpu", threads=1))
    metrics = json.loads(json.dumps(metrics, allow_nan=False))
    method = metrics["held_out"][section.method]
    assert 0 < method["kl_divergence"] < metrics["held_out"]["rtn"]["kl_divergence"] * 1.5
    assert ("cosine" in method) == (name == "encoder")
    document = json.dumps(quantization_section({"stages": {"quantized": {"metrics": metrics}}}))
    assert "KL (nats)" in document
    assert "price-of-bits" in document


def test_the_example_of_the_book_runs(make_decoder, byte_tokenizer, tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[2] / "book" / "quantization.md").read_text()
    monkeypatch.chdir(tmp_path)
    save_model(make_decoder(num_layers=1), "my-model")
    byte_tokenizer.save("my-model")
    Path("my.txt").write_text(VARIED)
    exec(compile(page.split("```python\n")[1].split("```")[0], "quantization.md", "exec"), {})
    assert 0 < float(capsys.readouterr().out) < 1


def test_an_encoder_without_text_is_rounded_without_a_comparison(byte_tokenizer, tmp_path):
    save_model(build("encoder"), tmp_path / "plain")
    byte_tokenizer.save(tmp_path / "plain")
    summary = quantize_folder(tmp_path / "plain", tmp_path / "small", method="rtn", bits=8)
    assert "held_out" not in summary
    assert "bits per weight    8." in format_price(summary)
    with pytest.raises(UserError, match="only a decoder can write its own"):
        quantize_folder(tmp_path / "plain", tmp_path / "other")
