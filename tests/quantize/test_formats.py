"""Quantized file formats: tensor layouts, and folder round trips."""

import json
from dataclasses import replace

import pytest
import torch

from groundup.artifacts.errors import UserError
from groundup.quantize import export_model, open_model
from groundup.quantize.formats import FORMATS
from groundup.quantize.formats.huggingface_folder import export_huggingface_quantized, load_huggingface_quantized
from groundup.quantize.layers.quantized_linear import quantized_layers
from groundup.quantize.quantization_grid import WHOLE_ROW, QuantizationScheme, QuantizedWeight, round_to_nearest
from groundup.quantize.quantizer import QuantizationSettings, quantize_model

CASES = [
    ("gptq", QuantizationScheme(4, 32, True)),
    ("gptq", QuantizationScheme(8, 32, True)),
    ("awq", QuantizationScheme(4, 32, False)),
    ("awq", QuantizationScheme(4, 32, True)),
    ("compressed-tensors", QuantizationScheme(4, 32, True)),
    ("compressed-tensors", QuantizationScheme(4, 32, False)),
    ("compressed-tensors", QuantizationScheme(8, 32, False)),
]
LAYER_CASES = [
    ("gptq", QuantizationScheme(2, 32, False)),
    ("gptq", QuantizationScheme(3, 32, False)),
    ("gptq", QuantizationScheme(3, 48, True)),
    ("gptq", QuantizationScheme(4, WHOLE_ROW, False)),
    ("compressed-tensors", QuantizationScheme(3, 32, False)),
    ("compressed-tensors", QuantizationScheme(5, 32, True)),
    ("compressed-tensors", QuantizationScheme(7, WHOLE_ROW, False)),
]


@pytest.mark.parametrize(("name", "scheme"), [*CASES, *LAYER_CASES], ids=str)
@pytest.mark.parametrize("permuted", [False, True])
def test_format_round_trip_of_a_layer(name, scheme, permuted):
    generator = torch.Generator().manual_seed(0)
    weight = round_to_nearest(torch.randn(64, 96, generator=generator), scheme)
    if permuted:
        weight = replace(weight, g_idx=scheme.group_index(96)[torch.randperm(96, generator=generator)].int())
    layout = FORMATS[name]
    if permuted and name != "gptq":
        with pytest.raises(UserError, match="g_idx"):
            layout.to_config(scheme, [], permuted)
        if name == "awq":
            return
    config = layout.to_config(scheme, [], permuted and name == "gptq")
    tensors = layout.to_tensors(weight, torch.float32)
    if permuted and name == "compressed-tensors":  # files of others
        tensors["weight_g_idx"] = weight.g_idx
    layout.check_config(config)
    assert layout.weight_shape(tensors, config) == (64, 96)
    found = layout.from_tensors(tensors, config, "layer")
    assert isinstance(found, QuantizedWeight)
    assert found.scheme == scheme or (name == "awq" and scheme.symmetric)
    assert torch.equal(found.codes, weight.codes)
    assert torch.equal(found.zero, weight.zero)
    assert torch.equal(found.scale, weight.scale)
    assert torch.equal(found.dequantize(), weight.dequantize())


def test_gptq_layout():
    """w[o, i] = (q - (z + 1)) * s with q and z taken apart bit by bit, as AutoGPTQ's pure torch layer
    does.
    """
    weight = round_to_nearest(torch.randn(16, 64), QuantizationScheme(4, 32))
    t = FORMATS["gptq"].to_tensors(weight, torch.float32)
    for o, i in ((0, 0), (3, 9), (15, 63), (7, 40)):
        group = int(t["g_idx"][i])
        q = (int(t["qweight"][i // 8, o]) >> (4 * (i % 8))) & 15
        z = (int(t["qzeros"][group, o // 8]) >> (4 * (o % 8))) & 15
        assert (q - (z + 1)) * t["scales"][group, o].float() == weight.dequantize()[o, i]


def test_awq_layout():
    weight = round_to_nearest(torch.randn(16, 64), QuantizationScheme(4, 32, False))
    t = FORMATS["awq"].to_tensors(weight, torch.float32)
    place = {output: slot for slot, output in enumerate((0, 2, 4, 6, 1, 3, 5, 7))}
    for o, i in ((0, 0), (3, 9), (15, 63), (6, 40)):
        q = (int(t["qweight"][i, o // 8]) >> (4 * place[o % 8])) & 15
        z = (int(t["qzeros"][i // 32, o // 8]) >> (4 * place[o % 8])) & 15
        assert (q - z) * t["scales"][i // 32, o].float() == weight.dequantize()[o, i]


def test_compressed_tensors_layout():
    weight = round_to_nearest(torch.randn(16, 64), QuantizationScheme(4, 32, False))
    t = FORMATS["compressed-tensors"].to_tensors(weight, torch.float32)
    for o, i in ((0, 0), (3, 9), (15, 63), (6, 40)):
        q = ((int(t["weight_packed"][o, i // 8]) >> (4 * (i % 8))) & 15) - 8
        z = ((int(t["weight_zero_point"][o // 8, i // 32]) >> (4 * (o % 8))) & 15) - 8
        assert (q - z) * t["weight_scale"][o, i // 32] == weight.dequantize()[o, i]


@pytest.mark.parametrize(
    "knobs",
    [{"num_kv_heads": 2}, {"qk_norm": True, "tie_embeddings": True}, {"attention_bias": "qkv"}],
    ids=("llama", "qwen3, tied", "qwen2"),
)
@pytest.mark.parametrize(("name", "scheme"), CASES[::2], ids=str)
def test_format_round_trip_of_a_folder(make_decoder, byte_tokenizer, windows, tmp_path, name, scheme, knobs):
    model = make_decoder(**knobs)
    quantize_model(model, QuantizationSettings("rtn", scheme))
    files = export_huggingface_quantized(model, byte_tokenizer, tmp_path, format=name, dtype="float32")
    assert {file.name for file in files} >= {"model.safetensors", "config.json", "tokenizer.json"}
    again = load_huggingface_quantized(tmp_path)
    before, after = quantized_layers(model), quantized_layers(again)
    assert before.keys() == after.keys()
    for layer, found in after.items():
        assert torch.equal(before[layer].unpack_weight().codes, found.unpack_weight().codes)
        assert torch.equal(before[layer].scale, found.scale)
    with torch.no_grad():
        assert torch.equal(model(windows).logits, again(windows).logits)


def test_open_model_reads_quantized_huggingface_folders(decoder, byte_tokenizer, tmp_path):
    quantize_model(decoder, QuantizationSettings("rtn", QuantizationScheme(4, 32)))
    export_huggingface_quantized(decoder, byte_tokenizer, tmp_path, format="gptq", dtype="float16")
    model, tokenizer = open_model(tmp_path, device="cpu")
    assert tokenizer.encode("ok") == byte_tokenizer.encode("ok")
    assert model(torch.tensor([[5, 6, 7]])).logits.shape == (1, 3, 264)


def test_unsupported_exports_are_refused(decoder, make_decoder, byte_tokenizer, tmp_path, copy_of):
    with pytest.raises(UserError, match="has no quantized layers"):
        export_huggingface_quantized(decoder, None, tmp_path, format="gptq", dtype="float32")
    asymmetric = copy_of(decoder)
    quantize_model(asymmetric, QuantizationSettings("rtn", QuantizationScheme(4, 32, False)))
    with pytest.raises(UserError, match="no form for"):
        export_huggingface_quantized(asymmetric, None, tmp_path, format="bitsandbytes", dtype="float32")
    quantize_model(decoder, QuantizationSettings("rtn", QuantizationScheme(8, 32)))
    with pytest.raises(UserError, match="expected 4 for the AWQ"):
        export_huggingface_quantized(decoder, None, tmp_path, format="awq", dtype="float32")
    gpt2 = make_decoder(
        norm="layernorm", norm_bias=True, position_embedding="learned", feed_forward="gelu_tanh", feed_forward_bias=True,
        attention_bias="all", tie_embeddings=True,
    )  # fmt: skip
    quantize_model(gpt2, QuantizationSettings("rtn", QuantizationScheme(4, 32)))
    with pytest.raises(UserError, match="transposed"):
        export_huggingface_quantized(gpt2, None, tmp_path, format="gptq", dtype="float32")
    assert not (tmp_path / "config.json").exists()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("gptq", {"checkpoint_format": "marlin"}, "checkpoint_format = 'marlin'"),
        ("gptq", {"checkpoint_format": "gptq_v2"}, "all zeros are 7, expected 8"),
        ("gptq", {"bits": 8}, "tensors of 4 bits, but bits = 8"),
        ("awq", {"version": "gemv_fast"}, "gemv_fast"),
        ("compressed-tensors", {"format": "marlin-24"}, "marlin-24"),
        ("compressed-tensors", {"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparse-24-bitmask"),
        ("gptq", {"quant_method": "quip"}, "quant_method = 'quip'"),
    ],
)
def test_unsupported_configs_are_refused(decoder, byte_tokenizer, tmp_path, name, changes, message):
    quantize_model(decoder, QuantizationSettings("rtn", QuantizationScheme(4, 32)))
    export_huggingface_quantized(decoder, byte_tokenizer, tmp_path, format=name, dtype="float32")
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] |= changes
    config["quantization_config"] = {
        name: value for name, value in config["quantization_config"].items() if value is not None
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        open_model(tmp_path, device="cpu")


def test_huggingface_export_of_a_quantized_model(decoder, byte_tokenizer, windows, tmp_path):
    from groundup.quantize.quantized_folder import save_quantized_folder

    quantize_model(decoder, QuantizationSettings("rtn", QuantizationScheme(4, 32)))
    save_quantized_folder(decoder, tmp_path / "small", "rtn")
    byte_tokenizer.save(tmp_path / "small")
    export_model(tmp_path / "small", tmp_path / "plain", format="huggingface", dtype="float32")
    plain, _ = open_model(tmp_path / "plain", device="cpu")
    with torch.no_grad():
        torch.testing.assert_close(plain(windows).logits, decoder(windows).logits)
