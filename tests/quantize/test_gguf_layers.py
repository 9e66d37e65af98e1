"""GGUF files whose layers stay packed: the same weights as unpacked ones, in less memory."""

from pathlib import Path

import pytest
import torch

from groundup.interop.gguf import export_gguf, load_gguf
from groundup.model import build_model, save_model
from groundup.quantize import export_model, open_model
from groundup.quantize.formats.gguf_layers import has_packed_layers, load_packed_gguf
from groundup.quantize.layers.quantized_linear import quantized_layers
from groundup.quantize.quantizer import dequantize_model
from groundup.recipe import ModelConfig
from groundup.tokenizer.tokenizer_training import train_bpe

SHAPE = {
    "vocab_size": 300, "hidden_size": 64, "num_layers": 2, "num_heads": 2, "intermediate_size": 96, "context_length": 64,
}  # fmt: skip
MODELS = {
    "llama, biases": {"attention_bias": "all", "feed_forward_bias": True},
    "experts": {"moe": {"num_experts": 4, "experts_per_token": 2}},
    "experts with biases": {
        "attention_bias": "all",
        "attention_sinks": True,
        "feed_forward": "swiglu_clamped",
        "head_dim": 32,
        "sliding_window": 16,
        "attention_pattern": ["local", "global"],
        "moe": {"num_experts": 4, "experts_per_token": 2, "expert_bias": True, "router_bias": True},
    },
    "phi3, joined matrices": {"rotary_dim": 24},
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", ["q8_0", "q5_0", "q4_0"])
def test_packed_layers_have_the_weights_of_the_file(name: str, dtype: str, tmp_path: Path):
    torch.manual_seed(0)
    model = build_model(ModelConfig(**{**SHAPE, **MODELS[name]}))
    path = export_gguf(model, train_bpe(["some text to learn"] * 9, 270), tmp_path / "m.gguf", dtype)
    assert has_packed_layers(path)
    packed, expected = load_packed_gguf(path, dtype=torch.float32)[0], load_gguf(path, dtype="float32")[0]
    assert len(quantized_layers(packed)) >= 8
    found = dequantize_model(packed).state_dict()
    assert found.keys() == expected.state_dict().keys()
    for key, weight in expected.state_dict().items():
        assert found[key].equal(weight), key


@pytest.mark.parametrize("dtype", ["q4_k_m", "q2_k", "q6_k"])
@pytest.mark.parametrize("moe", [None, {"num_experts": 4, "experts_per_token": 2}], ids=["dense", "experts"])
def test_other_types_are_held_in_eight_bits(dtype: str, moe: dict | None, tmp_path: Path):
    torch.manual_seed(0)
    wide = {**SHAPE, "hidden_size": 256, "intermediate_size": 256, "moe": moe}
    model = build_model(ModelConfig(**wide))
    path = export_gguf(model, train_bpe(["some text to learn"] * 9, 270), tmp_path / "m.gguf", dtype)
    packed, exact = load_packed_gguf(path)[0], load_gguf(path, dtype="float32")[0].state_dict()
    layers = quantized_layers(packed)
    assert len(layers) == 2 * (7 if moe is None else 4 + 3 * 4)
    assert sum(t.numel() * t.element_size() for layer in layers.values() for t in layer.buffers()) < 1.1 * sum(
        layer.in_features * layer.out_features for layer in layers.values()
    )
    for key, weight in dequantize_model(packed).state_dict().items():
        assert (weight.float() - exact[key]).norm() <= 0.006 * exact[key].norm(), key


def test_what_is_not_packed_is_exact_in_float32(tmp_path: Path):
    """Norms and the embedding, which pass through no half precision on the way."""
    torch.manual_seed(0)
    model = build_model(ModelConfig(**SHAPE))
    for norm in (model.final_norm, model.blocks[0].attention_norm):
        norm.weight.data.normal_(1, 0.1)
    path = export_gguf(model, train_bpe(["some text to learn"] * 9, 270), tmp_path / "m.gguf", "q4_0")
    found = dict(open_model(path, "cpu", dtype="float32")[0].named_parameters())
    exact = load_gguf(path, dtype="float32")[0].state_dict()
    assert found
    assert [name for name, weight in found.items() if not weight.equal(exact[name])] == []


def test_an_export_is_rounded_on_calibration_text_and_opens_packed(tmp_path: Path):
    torch.manual_seed(0)
    model, tokenizer = build_model(ModelConfig(**SHAPE)), train_bpe(["some text to learn"] * 9, 270)
    save_model(model, tmp_path / "model")
    tokenizer.save(tmp_path / "model")
    text = tmp_path / "text.txt"
    text.write_text(" ".join(f"{number} some text {number * 7919 % 1009} to learn" for number in range(300)))
    exported = export_model(
        tmp_path / "model", tmp_path / "out", format="gguf", dtype="q4_0", verify=False, calibration=[text]
    )
    assert any("weighted by the inputs" in note for note in exported.notes)
    opened, _ = open_model(tmp_path / "out", "cpu")
    tokens = torch.tensor([tokenizer.encode("some text to learn")])
    with torch.no_grad():
        difference = (
            opened(tokens).logits.float()
            - load_gguf(tmp_path / "out" / "model.gguf", dtype="float32")[0](tokens).logits
        )
    assert difference.abs().max() < 0.1
