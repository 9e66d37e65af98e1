"""GGUF files: bytes, quantized types, metadata and tokenizers."""

import json
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import gguf
import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

from groundup.artifacts.errors import UserError
from groundup.interop.gguf import export_gguf, load_gguf
from groundup.interop.gguf.gguf_file import GGUFFile
from groundup.interop.gguf.gguf_pretokenizers import PRETOKENIZER_ALIASES, PRETOKENIZERS
from groundup.interop.gguf.gguf_tokenizer import read_tokenizer, write_tokenizer
from groundup.interop.model_loading import resolve_model_path
from groundup.interop.weight_map import TensorMap, convert_to_foreign, expected_shapes
from groundup.model import build_model
from groundup.recipe import ModelConfig
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.split_patterns import PATTERNS
from groundup.tokenizer.tokenizer_training import train_bpe, train_unigram

CORPUS = ["the quick brown fox's 12 cubs jump over the lazy dog, don't they? Ünïcödé 狐 and 🦊 too"] * 20
SHAPE = {"vocab_size": 300, "hidden_size": 32, "num_layers": 1, "num_heads": 2, "intermediate_size": 32}
UNPACKED_BY_THE_PACKAGE = [
    kind for kind in gguf.GGMLQuantizationType if kind in gguf.quants._type_traits or kind.name in ("F32", "F16")
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(CORPUS, 290)


@pytest.fixture
def file(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    torch.manual_seed(0)
    return export_gguf(build_model(ModelConfig(**SHAPE)), tokenizer, tmp_path / "m.gguf")


def test_file_equals_the_gguf_package(file: Path):
    ours, reference = GGUFFile(file), gguf.GGUFReader(file)
    entries = {key: field.contents() for key, field in reference.fields.items() if not key.startswith("GGUF.")}
    assert ours.metadata == entries
    assert list(ours.shapes) == [tensor.name for tensor in reference.tensors]
    for tensor in reference.tensors:
        assert np.array_equal(ours.read(tensor.name).numpy(), gguf.dequantize(tensor.data, tensor.tensor_type))


@pytest.mark.parametrize("kind", UNPACKED_BY_THE_PACKAGE, ids=lambda kind: kind.name)
def test_every_quantized_type_is_unpacked(kind: gguf.GGMLQuantizationType, tmp_path: Path):
    per_block, size = gguf.GGML_QUANT_SIZES[kind]
    bytes_of = np.random.default_rng(0).integers(1, 60, (3, 2 * size), dtype=np.uint8)  # no scale is NaN
    writer = gguf.GGUFWriter(tmp_path / "t.gguf", "llama")
    writer.add_tensor("t", bytes_of, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    opened = GGUFFile(tmp_path / "t.gguf")
    assert opened.shapes == {"t": (3, 2 * per_block)}
    assert np.array_equal(opened.read("t").float().numpy(), gguf.dequantize(bytes_of, kind).astype(np.float32))


def test_unsupported_type_is_refused(tmp_path: Path):
    writer = gguf.GGUFWriter(tmp_path / "t.gguf", "llama")
    writer.add_tensor("t", np.zeros((2, 4), dtype=np.int32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UserError, match="tensor t has the unsupported type I32"):
        GGUFFile(tmp_path / "t.gguf").read("t")


@given(fraction=st.floats(0, 0.999))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_truncated_gguf_is_refused(whole_file: Path, fraction: float):
    data = whole_file.read_bytes()
    truncated = whole_file.with_name("truncated.gguf")
    truncated.write_bytes(data[: int(fraction * (len(data) - 4000))])
    with pytest.raises(UserError, match=r"truncated\.gguf: (not a complete GGUF file|begins with)"):
        load_gguf(truncated)


@pytest.fixture(scope="module")
def whole_file(tmp_path_factory, tokenizer: Tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    return export_gguf(build_model(ModelConfig(**SHAPE)), tokenizer, folder / "m.gguf")


@given(at=st.integers(8, 3000), value=st.integers(0, 255))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_flipped_header_byte_raises_user_error_or_opens(whole_file: Path, at: int, value: int):
    data = bytearray(whole_file.read_bytes())
    data[at] = value
    flipped = whole_file.with_name("flipped.gguf")
    flipped.write_bytes(data)
    with suppress(UserError):
        load_gguf(flipped)


def split_file(file: Path) -> list[Path]:
    """As llama.cpp's gguf-split: metadata in the first file, a few tensors in each."""
    whole, paths = gguf.GGUFReader(file), [file.with_name(f"part-{i:05d}-of-00003.gguf") for i in (1, 2, 3)]
    for number, path in enumerate(paths):
        writer = gguf.GGUFWriter(path, "llama")
        if number == 0:
            for key, field in whole.fields.items():
                if not key.startswith(("GGUF.", "general.architecture")):
                    kinds = field.types
                    writer.add_key_value(key, field.contents(), kinds[0], kinds[1] if len(kinds) > 1 else None)
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", 3)
        writer.add_int32("split.tensors.count", len(whole.tensors))
        for tensor in whole.tensors[number::3]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return paths


def test_a_model_in_several_files_is_one(file: Path):
    paths = split_file(file)
    whole, parts = load_gguf(file)[0].state_dict(), load_gguf(paths[0])[0].state_dict()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    file.unlink()
    assert resolve_model_path(file.parent) == paths[0]
    paths[1].unlink()
    with pytest.raises(UserError, match=r"part-00002-of-00003\.gguf is missing, expected all 3 files"):
        load_gguf(paths[0])


def test_lost_normalization_is_named(caplog: pytest.LogCaptureFixture, tokenizer: Tokenizer):
    composed = Tokenizer(tokenizers.Tokenizer.from_str(tokenizer.backend.to_str()))
    composed.backend.normalizer = normalizers.NFC()
    write_tokenizer(composed, 290)
    assert "llama.cpp does not normalize text (NFC)" in caplog.text


def test_old_version_is_refused(file: Path):
    data = bytearray(file.read_bytes())
    data[4:8] = struct.pack("<I", 1)
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"version 1, expected one of \(2, 3\)"):
        load_gguf(file)


def test_unknown_architecture_is_refused(tmp_path: Path, tokenizer: Tokenizer):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "rwkv7")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UserError, match="'rwkv7' is not supported, expected one of qwen2, qwen3, "):
        load_gguf(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        (
            {"sliding_window": 4, "attention_pattern": ["local"]},
            r"GGUF \(llama\): sliding_window must be None, is 4; attention_pattern must be",
        ),
        ({"feed_forward": "geglu_tanh"}, "feed_forward must be 'swiglu', is 'geglu_tanh'"),
        (
            {"rope_scaling": {"method": "dynamic", "factor": 2.0, "original_context_length": 512}},
            "rope_scaling must be None, is ",
        ),
        (
            {"qk_norm": True, "moe": {"num_experts": 2, "experts_per_token": 1, "normalize_scores": False}},
            "moe must be ",
        ),
    ],
)
def test_config_without_gguf_equivalent_is_refused(knobs, message: str, tmp_path: Path, tokenizer: Tokenizer):
    with pytest.raises(UserError, match=message):
        export_gguf(build_model(ModelConfig(**{**SHAPE, **knobs})), tokenizer, tmp_path / "m.gguf")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("factor", [2.0, 8.0, 32.0])
@pytest.mark.parametrize("length", [64, 8192])
def test_llama3_scaling_is_inferred_from_its_factors(factor: float, length: int, tmp_path: Path, tokenizer: Tokenizer):
    scaling = {"method": "llama3", "factor": factor, "original_context_length": length}
    knobs = {"rope_theta": 5e5, "rope_scaling": scaling, "head_dim": 64, "context_length": 2 * length}
    model = build_model(ModelConfig(**{**SHAPE, **knobs}))
    opened, _ = load_gguf(export_gguf(model, tokenizer, tmp_path / "m.gguf"))
    frequencies = [part.get_submodule("position_encodings.global.rotary").frequencies for part in (model, opened)]
    torch.testing.assert_close(*frequencies)
    assert opened.config.rope_scaling.method == "llama3"


def trained(pre_tokenizer, ignore_merges: bool = False) -> Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE(ignore_merges=ignore_merges))
    backend.pre_tokenizer = pre_tokenizer
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|end|>", "<s>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    return Tokenizer(backend, eos="<|end|>", bos="<s>")


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
PRE_TOKENIZERS = {
    "gpt-2": (pre_tokenizers.ByteLevel(add_prefix_space=False), False),
    "smollm": (
        pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        ),
        False,
    ),
    **{
        name: (
            pre_tokenizers.Sequence(
                [*(pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated") for pattern in patterns), BYTES]
            ),
            ignore_merges,
        )
        for name, (patterns, ignore_merges) in PRETOKENIZERS.items()
        if name not in ("gpt-2", "smollm")
    },
}


@pytest.mark.parametrize("name", PRETOKENIZERS)
@given(text=st.text(max_size=40) | st.sampled_from(CORPUS))
@settings(max_examples=15, deadline=None)
def test_every_pretokenizer_round_trips(name: str, text: str):
    before = trained(*PRE_TOKENIZERS[name])
    metadata = write_tokenizer(before, before.vocab_size + 3)
    assert metadata["tokenizer.ggml.pre"] == name
    after = read_tokenizer(metadata)
    assert after.encode(text) == before.encode(text)
    assert after.decode(after.encode(text)) == before.decode(before.encode(text))
    assert (after.vocab_size, after.bos_id, after.eos_id) == (before.vocab_size, before.bos_id, before.eos_id)
    assert after.special_ids == before.special_ids
    assert after.encode("<think>") == before.encode("<think>") == [before.token_id("<think>")]


def test_our_pretokenizers_have_gguf_names():
    for pattern in PATTERNS.values():
        assert any(patterns == (pattern.regex,) for patterns, _ in PRETOKENIZERS.values())
        assert pattern.gguf in PRETOKENIZERS
    assert set(PRETOKENIZER_ALIASES.values()) <= set(PRETOKENIZERS)


def make_sentencepiece(prefix: bool) -> Tokenizer:
    """As Llama 2's tokenizer.json: bytes, then merges; a space before the text."""
    specials = ["<unk>", "<s>", "</s>"]
    backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    spaces = normalizers.Replace(" ", "▁")
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefix else spaces
    back = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*back, decoders.Strip(" ", 1, 0)] if prefix else back)
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    # Sentences of words, so that merges do not reach over all of a text.
    words = [word for text in CORPUS for word in text.split()]
    trainer = trainers.BpeTrainer(vocab_size=350, special_tokens=[*specials, *byte_tokens], show_progress=False)
    backend.train_from_iterator(words, trainer)
    rules = backend.to_str()
    for byte in byte_tokens:  # bytes are tokens of the vocabulary, and no control tokens
        rules = rules.replace(f'"content":"{byte}"', f'"content":"{byte}","gone":true')
    loaded = json.loads(rules)
    loaded["added_tokens"] = [token for token in loaded["added_tokens"] if "gone" not in token]
    backend = tokenizers.Tokenizer.from_str(json.dumps(loaded))
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return Tokenizer(backend, bos="<s>", eos="</s>")


@pytest.mark.parametrize("prefix", [True, False])
@given(text=st.text(max_size=40) | st.sampled_from([*CORPUS, "  two  spaces "]))
@settings(max_examples=25, deadline=None)
def test_sentencepiece_round_trips(prefix: bool, text: str):
    before = make_sentencepiece(prefix)
    metadata = write_tokenizer(before, before.vocab_size + 3)
    assert metadata["tokenizer.ggml.model"] == "llama"
    assert metadata["tokenizer.ggml.token_type"][:4] == [2, 3, 3, 6]
    after = read_tokenizer(metadata)
    assert after.encode(text) == before.encode(text)
    assert after.encode(text, add_special_tokens=True)[0] == before.bos_id
    assert after.decode(after.encode(text)) == before.decode(before.encode(text))


def unigram_of_bytes() -> tokenizers.Tokenizer:
    return train_unigram(CORPUS, 262).backend


def split_by_spaces() -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE({"a": 0}, []))
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), BYTES])
    return backend


def lowercased() -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE({"a": 0}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.normalizer = normalizers.Lowercase()
    return backend


def without_pretokenizer() -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer(models.BPE({"a": 0}, []))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (unigram_of_bytes, "a Unigram tokenizer of bytes"),
        (split_by_spaces, "no pretokenizer that splits by Whitespace"),
        (lowercased, "a Lowercase normalizer"),
        (without_pretokenizer, "neither byte-level BPE nor SentencePiece"),
    ],
)
def test_tokenizer_without_llama_cpp_rules_is_refused(make, message: str):
    with pytest.raises(UserError, match=message):
        write_tokenizer(Tokenizer(make()), 300)


def test_vocabulary_without_merges_is_refused():
    """llama.cpp needs the list, and a GGUF file cannot hold an empty one."""
    with pytest.raises(UserError, match="a vocabulary without merges"):
        write_tokenizer(train_bpe([], 260), 260)


def test_vocabulary_larger_than_the_embedding_is_refused(tokenizer: Tokenizer):
    with pytest.raises(UserError, match="290 tokens, but the embedding has 289 rows"):
        write_tokenizer(tokenizer, 289)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"tokenizer.ggml.model": "rwkv"}, "'rwkv' is not supported, expected 'gpt2', 'llama', 't5', 'bert'"),
        ({"tokenizer.ggml.pre": "kimi-k2"}, "'kimi-k2' is not supported, expected one of .*command-r, dbrx, .*tekken"),
    ],
)
def test_unsupported_vocabulary_is_refused(entry, message: str, tokenizer: Tokenizer):
    with pytest.raises(UserError, match=message):
        read_tokenizer(write_tokenizer(tokenizer, 290) | entry)


def test_a_model_is_exported_over_its_own_file(file: Path):
    model, tokenizer = load_gguf(file)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    export_gguf(model, tokenizer, file, "bfloat16")
    opened = load_gguf(file, dtype="bfloat16")[0].state_dict()
    assert all(torch.equal(opened[name], weight.bfloat16()) for name, weight in before.items())


def test_quantized_weights_are_unpacked_to_the_dtype_asked_for(file: Path):
    model, tokenizer = load_gguf(file)
    export_gguf(model, tokenizer, file, "q8_0")
    exact, rounded = load_gguf(file, dtype="float32")[0].state_dict(), load_gguf(file)[0].state_dict()
    assert all(torch.equal(exact[name].bfloat16(), rounded[name]) for name in exact)


@pytest.mark.parametrize(
    ("written", "opened"),
    [("float32", "float32"), ("float16", "float16"), ("bfloat16", "bfloat16"), ("q4_k_m", "bfloat16")],
)
def test_a_file_opens_in_the_dtype_of_its_matrices(file: Path, written: str, opened: str):
    model, tokenizer = load_gguf(file)
    export_gguf(model, tokenizer, file, written)
    assert {tensor.dtype for tensor in load_gguf(file)[0].parameters()} == {getattr(torch, opened)}


COMPILER = """
import sys, torch
from groundup.interop.families.select_family import select_family
from groundup.interop.weight_map import expected_shapes
from groundup.model import build_meta_model
from groundup.recipe import ModelConfig
shape = {"vocab_size": 300, "hidden_size": 32, "num_layers": 1, "num_heads": 2, "intermediate_size": 32}
gemma = {"norm": "zero_centered_rmsnorm", "feed_forward": "geglu_tanh", "embedding_scale": 32**0.5, "tie_embeddings": True}
for knobs in (
    {},
    {"norm_placement": "sandwich"},
    {"moe": {"num_experts": 4, "experts_per_token": 2}},
    gemma,
):
    config = ModelConfig(**shape, **knobs)
    weights = build_meta_model(config).state_dict()
    family = select_family(config)
    expected_shapes(family.weight_map(config, list(weights)), weights)
    if not knobs:
        from groundup.interop.gguf.architectures import GGUF_ARCHITECTURES
        from groundup.interop.gguf.architectures.gguf_architecture import gguf_weight_map
        expected_shapes(gguf_weight_map(GGUF_ARCHITECTURES["llama"], config, list(weights)), weights)
assert not {"torch._dynamo", "sympy"} & sys.modules.keys()
"""


def test_shapes_are_computed_without_the_compiler_of_pytorch():
    """Its import takes more time than opening a small model."""
    done = subprocess.run([sys.executable, "-c", COMPILER], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_shapes_on_the_meta_device_are_those_of_values():
    maps = [
        TensorMap(("a", "b"), ("c",), to_foreign=lambda tensors: [torch.cat(tensors, dim=1)[torch.tensor([2, 0])] - 1]),
        TensorMap(("a", "b"), ("s",), to_foreign=lambda tensors: [torch.stack(tensors, dim=-1).flatten(-2)]),
    ]
    weights = {"a": torch.ones(3, 4), "b": torch.ones(3, 4)}
    shapes = expected_shapes(maps, weights)
    assert shapes == {name: tuple(values.shape) for name, values in convert_to_foreign(maps, weights)}
