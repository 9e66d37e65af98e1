"""Models by path, messages about paths without a model, and the export stage."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
import torch

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.artifacts.manifest import Manifest, list_files
from groundup.artifacts.run_record import manifest_name, update_record
from groundup.interop import export, export_huggingface, load_huggingface, open_model, resolve_model_path
from groundup.interop.gguf.gguf_export import GGUF_DTYPES
from groundup.interop.huggingface_model import DTYPES
from groundup.interop.model_export import EXPORT_FORMATS
from groundup.model import build_model, load_model, save_model
from groundup.quantize.stage import export as run_stage
from groundup.recipe import ModelConfig
from groundup.recipe.output_config import ExportConfig
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.tokenizer_training import train_bpe

TEXT = ["the quick brown fox jumps over the lazy dog, again and again and again"] * 20


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(TEXT, 270)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=270, hidden_size=24, num_layers=2, num_heads=3, num_kv_heads=1, init_std=0.3)
    return build_model(config).eval()


@pytest.fixture
def native(tmp_path: Path, model, tokenizer) -> Path:
    save_model(model, tmp_path / "native")
    tokenizer.save(tmp_path / "native")
    return tmp_path / "native"


def same_logits(opened, model) -> bool:
    tokens = torch.arange(20).view(2, 10)
    return torch.equal(opened(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize("format", EXPORT_FORMATS)
def test_every_export_reopens_with_equal_logits(format: str, tmp_path: Path, model, tokenizer):
    files = export(model, tokenizer, tmp_path / "out", format=format, dtype="float32")
    assert sorted(files) == sorted((tmp_path / "out").iterdir())
    opened, reopened = open_model(tmp_path / "out", device="cpu")
    assert same_logits(opened, model)
    assert reopened.encode("the fox's 12 dogs") == tokenizer.encode("the fox's 12 dogs")
    assert (reopened.eos_id, reopened.pad_id, reopened.stop_ids) == (
        tokenizer.eos_id,
        tokenizer.pad_id,
        tokenizer.stop_ids,
    )
    messages = [{"role": "user", "content": "fox <|im_end|>"}]
    assert reopened.render_chat(messages) == tokenizer.render_chat(messages)


def test_recipe_choices_equal_export_formats():
    assert ExportConfig.model_fields["format"].annotation.__args__ == tuple(EXPORT_FORMATS)
    named = get_args(ExportConfig.model_fields["dtype"].annotation)[0]
    assert set(get_args(named)) == set(GGUF_DTYPES) >= set(DTYPES)


@pytest.mark.parametrize("name", ["model.safetensors", "model.json", "tokenizer.json", "manifest.json"])
def test_damaged_stage_is_not_opened(name: str, native: Path):
    """One changed bit of a finished stage: of such, one in six once gave other logits without a word."""
    stage = native.rename(native.with_name("04-base"))
    Manifest(stage="base", version=1, fingerprint="f", files=list_files(stage)).write(stage)
    update_record(stage.parent, add=[manifest_name(stage)])
    open_model(stage, device="cpu")
    content = bytearray((stage / name).read_bytes())
    position = content.rindex(b"0") if name.endswith(".json") else len(content) - 3
    content[position] ^= 1
    (stage / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"04-base/{name}: changed: sha256"):
        open_model(stage, device="cpu")
    with pytest.raises(UserError, match=rf"04-base/{name}: changed: sha256"):
        load_model(stage)
    if name == "model.safetensors":
        open_model(stage, device="cpu", verify=False)


def test_folder_with_a_manifest_of_other_software_opens(native: Path):
    (native / "manifest.json").write_text('{"stage": "production"}')
    open_model(native, device="cpu")


def test_native_folder_opens(native: Path, model):
    opened, tokenizer = open_model(str(native), device="cpu")
    assert same_logits(opened, model)
    assert tokenizer.vocab_size == 270


def test_run_opens_its_best_finished_model(native: Path, tmp_path: Path):
    run = tmp_path / "run"
    for name in ("04-base", "06-chat"):
        shutil.copytree(native, run / name)
    with pytest.raises(UserError, match="contains 04-base, 06-chat"):
        resolve_model_path(run)
    for name in ("04-base", "06-chat"):
        Manifest(stage="x", version=1, fingerprint="f", files=list_files(run / name)).write(run / name)
        assert resolve_model_path(run) == run / name


def test_unfinished_run_is_refused(native: Path, tmp_path: Path):
    shutil.copytree(native, tmp_path / "run" / "04-base.partial")
    with pytest.raises(UserError, match=r"04-base is incomplete .*groundup run continues it"):
        open_model(tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "no such file or folder, expected a model folder, a run"),
        ("model.bin", "a pickle, which can run code"),
        ("model.safetensors", "weights without a configuration"),
        ("notes.txt", "not a model, expected"),
        ("model.gguf", r"begins with b'oops', expected b'GGUF'"),
    ],
)
def test_path_without_a_model_is_refused(name: str, message: str, tmp_path: Path):
    if name != "nothing":
        (tmp_path / name).write_bytes(b"oops")
    with pytest.raises(UserError, match=message):
        open_model(tmp_path / name)


def test_two_gguf_files_are_refused(tmp_path: Path):
    for name in "ab":
        (tmp_path / f"{name}.gguf").touch()
    with pytest.raises(UserError, match=r"2 \.gguf files, expected one"):
        resolve_model_path(tmp_path)


def test_unavailable_device_is_refused(native: Path):
    with pytest.raises(UserError, match="device 'tpu': unknown"):
        open_model(native, device="tpu")


def test_dtypes_by_name(native: Path, tmp_path: Path, model, tokenizer):
    export_huggingface(model, tokenizer, tmp_path / "out")
    for folder in (native, tmp_path / "out"):
        opened, _ = open_model(folder, "cpu", "bfloat16")
        assert next(opened.parameters()).dtype == torch.bfloat16
        with pytest.raises(UserError, match="dtype = 'int3', expected one of float32"):
            open_model(folder, "cpu", "int3")


@pytest.fixture
def folder(tmp_path: Path, model) -> Path:
    export_huggingface(model, None, tmp_path / "hf")
    return tmp_path / "hf"


def edit(folder: Path, **fields) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "lama"}, r"model_type = 'lama' is not supported, the nearest are llama"),
        ({"model_type": None}, "model_type = None is not supported"),
        ({"hidden_act": "swish2"}, r"hidden_act = 'swish2' is not supported, expected one of 'silu'"),
        ({"rope_scaling": {"type": "su", "factor": 2}}, "rope_type = 'su' is not supported, expected one of default"),
        ({"rope_scaling": {"type": "linear"}}, "factor is missing"),
        ({"rope_scaling": {"type": "linear", "factor": 2, "partial_rotary_factor": 0.5}}, "partial rotation is not"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers = 'two', expected 1 to 10,000 layers"),
        ({"num_attention_heads": 5}, "hidden_size = 24 is not divisible by num_attention_heads = 5"),
        ({"quantization_config": {"quant_method": "gptq"}}, r"quantized weights \(gptq\)"),
        ({"num_hidden_layers": 3}, r"tensor model\.layers\.2\.\S+ is missing, expected shape"),
        (
            {"num_hidden_layers": 1},
            r"tensor model\.layers\.1\.\S+ of shape \[\d+.* is not part of this model \(and 8 more\)",
        ),
        ({"intermediate_size": 65}, r"tensor \S+ has shape \[64, 24\], expected \[65, 24\] \(and 5 more\)"),
    ],
)
def test_unsupported_config_is_refused(fields, message: str, folder: Path):
    edit(folder, **fields)
    with pytest.raises(UserError, match=message):
        load_huggingface(folder)


def test_missing_config_key_is_refused(folder: Path):
    config = json.loads((folder / "config.json").read_text())
    del config["vocab_size"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config\.json: 'vocab_size' is missing, expected in a llama model"):
        load_huggingface(folder)


@pytest.mark.parametrize("text", ["", "[1]", "{"])
def test_config_that_is_not_a_json_object_is_refused(text: str, folder: Path):
    (folder / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json"):
        load_huggingface(folder)


def test_remote_code_is_not_run(folder: Path, tmp_path: Path):
    edit(folder, auto_map={"AutoModelForCausalLM": "modeling.Model"})
    (folder / "modeling.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    load_huggingface(folder)
    assert not (tmp_path / "ran").exists()


def test_stored_tied_head_is_ignored_and_untied_head_loaded(tmp_path: Path, model):
    tied = build_model(model.config.model_copy(update={"tie_embeddings": True})).eval()
    export_huggingface(tied, None, tmp_path / "tied")
    export_huggingface(model, None, tmp_path / "own")
    edit(tmp_path / "own", tie_word_embeddings=True)
    assert same_logits(load_huggingface(tmp_path / "own"), model)
    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / "tied" / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, tmp_path / "tied" / "model.safetensors")
    opened = load_huggingface(tmp_path / "tied")
    assert opened.config.tie_embeddings
    assert same_logits(opened, tied)


def test_half_precision_export_halves_the_file(tmp_path: Path, model):
    full, *_ = export_huggingface(model, None, tmp_path / "full")
    half, *_ = export_huggingface(model, None, tmp_path / "half", "bfloat16")
    assert half.stat().st_size < 0.6 * full.stat().st_size
    assert {t.dtype for t in load_huggingface(tmp_path / "half").state_dict().values()} == {torch.bfloat16}
    as_asked = load_huggingface(tmp_path / "half", dtype=torch.float32)
    assert {t.dtype for t in as_asked.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize(("format", "dtype"), [("onnx", "float32"), ("huggingface", "q8_0"), ("gguf", "int3")])
def test_unknown_format_or_dtype_is_refused(format, dtype, tmp_path: Path, model, tokenizer):
    with pytest.raises(UserError, match="expected one of"):
        export(model, tokenizer, tmp_path, format=format, dtype=dtype)


@pytest.mark.parametrize(("format", "dtype", "limit"), [("huggingface", "float32", 0), ("gguf", "bfloat16", 0.2)])
def test_export_stage_is_reproducible(format, dtype, limit, native: Path, tmp_path: Path):
    recipe = SimpleNamespace(export=ExportConfig(format=format, dtype=dtype), seed=0)
    facts, files = [], []
    for name in ("first", "second"):
        out = tmp_path / name
        out.mkdir()
        (out / ".fingerprint").write_text("kept")
        (out / "leftover").mkdir()
        (out / "leftover" / "shard").write_text("of a killed attempt")
        facts.append(run_stage(recipe, {"base": native, "chat": native}, out, Machine(device="cpu", threads=1)))
        files.append(list_files(out))
    assert facts[0] == facts[1]
    assert files[0] == files[1]
    assert "leftover/shard" not in files[0]
    assert facts[0]["max_logit_difference"] <= limit
    assert facts[0]["family"] == "llama"
    assert facts[0]["from"] == "chat"
    assert facts[0]["files"] == len(files[0])
    json.dumps(facts[0], allow_nan=False)


FUSED = {
    "norm": "layernorm",
    "norm_bias": True,
    "position_embedding": "learned",
    "attention_bias": "all",
    "feed_forward": "gelu_tanh",
    "feed_forward_bias": True,
}
STACKED = {"moe": {"num_experts": 3, "experts_per_token": 2}}


@pytest.mark.parametrize("knobs", [FUSED, STACKED], ids=["gpt2", "mixtral"])
def test_imported_model_can_be_saved(knobs, tmp_path: Path):
    """Tensors split from a fused one must not share its memory: safetensors refuses that."""
    shape = {"vocab_size": 50, "hidden_size": 24, "num_layers": 2, "num_heads": 3, "intermediate_size": 20}
    model = build_model(ModelConfig(**shape, **knobs)).eval()
    export_huggingface(model, None, tmp_path / "reference")
    save_model(load_huggingface(tmp_path / "reference"), tmp_path / "ours")
    assert same_logits(load_model(tmp_path / "ours"), model)


def test_earlier_export_is_replaced(tmp_path: Path, model):
    export_huggingface(model, None, tmp_path, max_shard_bytes=4000)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    export_huggingface(model, None, tmp_path)
    assert [path.name for path in tmp_path.glob("model*")] == ["model.safetensors"]
    assert same_logits(load_huggingface(tmp_path), model)


@pytest.mark.parametrize("knobs", [{"architecture": "encoder"}, {"architecture": "encoder", "masked_lm_head": False}])
def test_export_stage_of_encoders(knobs, tmp_path: Path, tokenizer):
    shape = {"vocab_size": 270, "hidden_size": 24, "num_layers": 2, "num_heads": 3, "context_length": 16}
    modern = {"norm": "layernorm", "embedding_norm": True, "feed_forward": "geglu", "tie_embeddings": True}
    model = build_model(ModelConfig(**shape, **modern, **knobs)).eval()
    save_model(model, tmp_path / "base")
    tokenizer.save(tmp_path / "base")
    (tmp_path / "out").mkdir()
    recipe = SimpleNamespace(export=ExportConfig(), seed=0)
    facts = run_stage(recipe, {"base": tmp_path / "base"}, tmp_path / "out", Machine(device="cpu", threads=1))
    assert facts["family"] == "modernbert"
    assert facts["max_logit_difference"] == 0


def test_hidden_files_are_not_named(tmp_path):
    (tmp_path / ".lock").touch()  # of a run that failed before its first stage
    with pytest.raises(UserError, match="contains nothing; expected"):
        resolve_model_path(tmp_path)


def test_model_folder_without_tokenizer_json(tmp_path: Path, model, tokenizer):
    """Older folders have the vocabulary in files of their own."""
    export_huggingface(model, tokenizer, tmp_path)
    rules = json.loads((tmp_path / "tokenizer.json").read_text())["model"]
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.json").write_text(json.dumps(rules["vocab"]))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in rules["merges"]]
    (tmp_path / "merges.txt").write_text("\n".join(merges))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Qwen2Tokenizer"}))
    assert open_model(tmp_path)[1].encode("a b 2") == tokenizer.encode("a b 2")
