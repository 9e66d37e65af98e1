"""Encoders of published shapes and settings, and what is refused."""

from pathlib import Path

import pytest
import transformers
from safetensors.torch import save_file

from groundup.artifacts.errors import UserError
from groundup.interop import load_huggingface
from groundup.interop.families import FAMILIES
from groundup.model import build_meta_model
from groundup.plan.shape.parameter_count import count_parameters

NOMIC = {
    "activation_function": "swiglu", "n_embd": 768, "n_head": 12, "n_inner": 3072, "n_layer": 12, "n_positions": 8192,
    "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": False, "rotary_scaling_factor": None,
    "layer_norm_epsilon": 1e-12, "type_vocab_size": 2, "vocab_size": 30528, "qkv_proj_bias": False, "mlp_fc1_bias": False,
    "mlp_fc2_bias": False, "prenorm": False, "use_rms_norm": False, "causal": False,
}  # fmt: skip
"""nomic-embed-text-v1.5 as it was published, for another program than transformers."""

ELECTRA = {
    "vocab_size": 30522, "hidden_size": 256, "embedding_size": 128, "num_hidden_layers": 12, "num_attention_heads": 4,
    "intermediate_size": 1024, "max_position_embeddings": 512,
}  # fmt: skip
BART = {
    "vocab_size": 131, "d_model": 24, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 3,
    "decoder_attention_heads": 3, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
}  # fmt: skip


def test_older_settings_of_nomic_bert():
    config = FAMILIES["nomic_bert"].read_config(NOMIC)
    assert (config.rope_theta, config.feed_forward, config.hidden_size) == (1000.0, "swiglu", 768)
    with pytest.raises(UserError, match=r"rotary_emb_fraction = 0.5, expected 1.0"):
        FAMILIES["nomic_bert"].read_config(NOMIC | {"rotary_emb_fraction": 0.5})


def test_parameters_of_narrow_embeddings():
    config = FAMILIES["electra"].read_config(ELECTRA)
    built = sum(weight.numel() for weight in build_meta_model(config).parameters())
    assert count_parameters(config).total == pytest.approx(built, rel=0.01)  # without biases and tables


@pytest.mark.parametrize(
    ("family", "json", "message"),
    [
        ("roberta", ELECTRA | {"pad_token_id": 0}, "pad_token_id = 0, expected 1"),
        ("bert", ELECTRA | {"hidden_act": "mish"}, "hidden_act = 'mish' is not supported"),
        ("bart", BART | {"decoder_ffn_dim": 50}, "decoder_ffn_dim = 50, expected encoder_ffn_dim = 48"),
        ("marian", BART | {"share_encoder_decoder_embeddings": False}, "share_encoder_decoder_embeddings = False"),
        ("mbart", BART | {"tie_word_embeddings": False}, "tie_word_embeddings = False, expected True"),
    ],
)
def test_what_is_refused(family: str, json: dict, message: str):  # type: ignore[type-arg]
    with pytest.raises(UserError, match=message):
        FAMILIES[family].read_config(json)


def test_an_untied_bert_without_the_bias_of_its_logits_is_refused(tmp_path: Path):
    """transformers would take zeros for it; `cls.predictions.bias`, which is stored, belongs to no layer then."""
    sizes = {
        "hidden_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "vocab_size": 64,
    }
    config = transformers.BertConfig(**sizes, tie_word_embeddings=False)
    weights = {name: tensor.clone() for name, tensor in transformers.BertForMaskedLM(config).state_dict().items()}
    config.save_pretrained(tmp_path)
    save_file(weights, tmp_path / "model.safetensors")
    assert not load_huggingface(tmp_path).config.tie_embeddings
    del weights["cls.predictions.decoder.bias"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"tensor cls\.predictions\.decoder\.bias is missing, expected shape \[64\]"):
        load_huggingface(tmp_path)
