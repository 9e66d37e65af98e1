"""Export: what it keeps of its source, what it says, and what it refuses."""

import json
import stat

import pytest
import torch
from typer.testing import CliRunner

from groundup.artifacts.errors import UserError
from groundup.cli import app
from groundup.interop import export_huggingface
from groundup.interop.export_check import HARD_TEXT, check_token_ids
from groundup.quantize import export_model, open_model, quantize_folder
from groundup.quantize.layers.nf4 import dequantize_nf4, quantize_nf4
from groundup.quantize.layers.nf4_linear import NF4Linear
from groundup.quantize.model_loader import load_quantized_model
from groundup.tokenizer import Tokenizer

GENERATION = {
    "temperature": 0.7, "top_p": 0.8, "max_new_tokens": 99, "no_repeat_ngram_size": 3, "suppress_tokens": [1],
    "bos_token_id": 77, "transformers_version": "4.0",
}  # fmt: skip


@pytest.fixture
def source(make_decoder, byte_tokenizer, tmp_path):
    """A Hugging Face folder in bfloat16."""
    model = make_decoder(num_kv_heads=2).to(torch.bfloat16)
    export_huggingface(model, byte_tokenizer, tmp_path / "source", dtype="bfloat16")
    return tmp_path / "source"


def _json(path):
    return json.loads(path.read_text())


def test_settings_are_kept(source, tmp_path):
    """dtype, recommended sampling and the length that a tokenizer names, from one Hugging Face folder to another."""
    (source / "generation_config.json").write_text(json.dumps(_json(source / "generation_config.json") | GENERATION))
    config = _json(source / "tokenizer_config.json")
    assert config["model_max_length"] == 64  # the context, unless the source says another one
    (source / "tokenizer_config.json").write_text(json.dumps(config | {"model_max_length": 48}))
    for number, origin in enumerate((source, tmp_path / "0")):
        exported = export_model(origin, tmp_path / str(number), format="huggingface")
        assert (exported.dtype, exported.max_logit_difference, exported.notes) == ("bfloat16", 0.0, [])
        found = _json(tmp_path / str(number) / "generation_config.json")
        kept = {key: value for key, value in GENERATION.items() if not key.startswith(("bos", "transf"))}
        assert found.items() >= kept.items()
        assert not {"bos_token_id", "transformers_version"} & found.keys()  # ids are those of the tokenizer
        assert _json(tmp_path / str(number) / "config.json")["torch_dtype"] == "bfloat16"
        assert _json(tmp_path / str(number) / "tokenizer_config.json")["model_max_length"] == 48
        assert {stat.S_IMODE(file.stat().st_mode) for file in exported.files} == {
            stat.S_IMODE((source / "config.json").stat().st_mode)
        }


def test_dtype_beside_packed_weights(source, tmp_path, byte_tokenizer, make_decoder):
    export_huggingface(make_decoder(), byte_tokenizer, tmp_path / "wide")
    for folder, expected in ((source, "bfloat16"), (tmp_path / "wide", "float16")):
        quantize_folder(folder, folder / "small", method="rtn", group_size=32, device="cpu")
        exported = export_model(folder / "small", folder / "gptq", format="gptq")
        assert exported.dtype == _json(folder / "gptq" / "config.json")["torch_dtype"] == expected
        assert exported.max_logit_difference < 0.05
    with pytest.raises(UserError, match="dtype 'q4_0', expected one of float32, bfloat16, float16"):
        export_model(source / "small", tmp_path / "out", format="gptq", dtype="q4_0")


def test_second_rounding_is_said(source, tmp_path, byte_tokenizer):
    rules = json.loads(byte_tokenizer.backend.to_str())
    rules["model"]["vocab"]["ab"], rules["model"]["merges"] = 260, [["a", "b"]]
    byte_tokenizer.with_rules(rules).save(source)  # llama.cpp wants a merge
    quantize_folder(source, tmp_path / "small", method="rtn", group_size=32, device="cpu")
    command = ["export", str(tmp_path / "small"), "--format", "gguf", "--dtype", "q4_0", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert "quantized already, and q4_0 rounds them a second time: export the model that it was" in done.stderr
    assert "q4_0, opened again: equal token ids, logits within" in done.stderr
    assert done.stdout.splitlines()[0].endswith("model.gguf")
    assert export_model(tmp_path / "small", tmp_path / "wide", format="gguf").notes == []


def test_export_that_is_not_finite_is_refused(make_decoder, byte_tokenizer, tmp_path):
    model = make_decoder()
    with torch.no_grad():
        model.head.weight.mul_(1e6)
    export_huggingface(model, byte_tokenizer, tmp_path / "source")
    with pytest.raises(UserError, match=r"the export in float16 does not open again: .*lm_head"):
        export_model(tmp_path / "source", tmp_path / "out", format="huggingface", dtype="float16")
    assert not (tmp_path / "out").exists()


def test_other_token_ids_are_refused(byte_tokenizer):
    rules = json.loads(byte_tokenizer.backend.to_str())
    other = byte_tokenizer.with_rules(rules | {"normalizer": {"type": "NFC"}})
    check_token_ids(byte_tokenizer, byte_tokenizer, "out")
    with pytest.raises(UserError, match="other ids, first for token"):
        check_token_ids(byte_tokenizer, other, "out")


@pytest.mark.parametrize("knobs", [{"attention_bias": "qkv"}, {"qk_norm": True}, {}], ids=("qwen2", "qwen3", "llama"))
def test_transformers_reads_our_ids(make_decoder, byte_tokenizer, tmp_path, knobs):
    """Its own class of Qwen2 tokenizers would split digits and compose letters."""
    transformers = pytest.importorskip("transformers")
    export_huggingface(make_decoder(num_kv_heads=2, **knobs), byte_tokenizer, tmp_path)
    found = transformers.AutoTokenizer.from_pretrained(tmp_path).encode(HARD_TEXT, add_special_tokens=False)
    assert found == byte_tokenizer.encode(HARD_TEXT)
    assert Tokenizer.load(tmp_path).encode(HARD_TEXT) == found
    open_model(tmp_path, device="cpu")


def test_nf4_of_bitsandbytes(source, tmp_path):
    """Written from a float model, with the head as it is; kept packed when it is read."""
    exported = export_model(source, tmp_path / "nf4", format="bitsandbytes")
    assert (exported.dtype, exported.notes) == ("bfloat16", [])
    described = _json(tmp_path / "nf4" / "config.json")["quantization_config"]
    assert {"lm_head", "model.norm"} & set(described["llm_int8_skip_modules"]) == {"lm_head"}
    found, _ = load_quantized_model(tmp_path / "nf4")
    float_model, _ = open_model(source, device="cpu")
    layers = {name: module for name, module in found.named_modules() if isinstance(module, NF4Linear)}
    assert len(layers) == 14  # seven of each block
    for name, layer in layers.items():
        expected = dequantize_nf4(quantize_nf4(float_model.get_submodule(name).weight))
        assert torch.equal(layer.dequantize(), expected)
    again = export_model(tmp_path / "nf4", tmp_path / "plain", format="huggingface", dtype="float32")
    assert again.max_logit_difference < 1e-5
