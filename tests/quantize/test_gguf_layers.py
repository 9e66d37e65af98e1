"""GGUF files whose layers stay packed: the same weights as unpacked ones, in less memory."""

from pathlib import Path

import pytest
import torch

from groundup.interop.gguf import export_gguf, load_gguf
from groundup.model import build_model
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
    "phi3, joined matrices": {"rotary_dim": 24},
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", ["q8_0", "q5_0", "q4_0"])
def test_packed_layers_have_the_weights_of_the_file(name: str, dtype: str, tmp_path: Path):
    torch.manual_seed(0)
    model = build_model(ModelConfig(**{**SHAPE, **MODELS[name]}))
    path = export_gguf(model, train_bpe(["some text to learn"] * 9, 270), tmp_path / "m.gguf", dtype)
    assert has_packed_layers(path)
    packed, expected = load_packed_gguf(path)[0], load_gguf(path)[0]
    assert len(quantized_layers(packed)) >= 8
    found = dequantize_model(packed).state_dict()
    assert found.keys() == expected.state_dict().keys()
    for key, weight in expected.state_dict().items():
        assert found[key].equal(weight), key
