"""GPT-like families: published configurations, other names of keys, and what is refused by name."""

from typing import Any

import pytest

from groundup.artifacts.errors import UserError
from groundup.interop.families import FAMILIES
from groundup.model import build_meta_model

PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "pythia-160m": (
        {
            "model_type": "gpt_neox", "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12,
            "num_hidden_layers": 12, "rotary_pct": 0.25, "rotary_emb_base": 10000, "vocab_size": 50304,
            "use_parallel_residual": True, "hidden_act": "gelu", "max_position_embeddings": 2048,
        },
        162_322_944,
    ),
    "gpt-j-6b": (
        {
            "model_type": "gptj", "n_embd": 4096, "n_head": 16, "n_layer": 28, "n_positions": 2048, "rotary_dim": 64,
            "vocab_size": 50400, "activation_function": "gelu_new",
        },
        6_050_882_784,
    ),
    "falcon-7b": (
        {
            "model_type": "falcon", "hidden_size": 4544, "num_attention_heads": 71, "num_hidden_layers": 32,
            "vocab_size": 65024, "multi_query": True, "parallel_attn": True, "bias": False, "alibi": False,
            "new_decoder_architecture": False,
        },
        6_921_720_704,
    ),
    "phi-2": (
        {
            "model_type": "phi", "hidden_size": 2560, "intermediate_size": 10240, "num_attention_heads": 32,
            "num_hidden_layers": 32, "partial_rotary_factor": 0.4, "vocab_size": 51200, "qk_layernorm": False,
        },
        2_779_683_840,
    ),
    "opt-125m": (
        {
            "model_type": "opt", "hidden_size": 768, "ffn_dim": 3072, "num_attention_heads": 12, "num_hidden_layers": 12,
            "vocab_size": 50272, "word_embed_proj_dim": 768,
        },
        125_239_296 - 2 * 768,  # without the two unused positions
    ),
    "starcoder2-3b": (
        {
            "model_type": "starcoder2", "hidden_size": 3072, "intermediate_size": 12288, "num_attention_heads": 24,
            "num_key_value_heads": 2, "num_hidden_layers": 30, "vocab_size": 49152, "sliding_window": 4096,
            "max_position_embeddings": 16384, "rope_theta": 999999.4420358813,
        },
        3_030_371_328,
    ),
    "stablelm-2-1_6b": (
        {
            "model_type": "stablelm", "hidden_size": 2048, "intermediate_size": 5632, "num_attention_heads": 32,
            "num_key_value_heads": 32, "num_hidden_layers": 24, "vocab_size": 100352, "use_qkv_bias": True,
            "partial_rotary_factor": 0.25,
        },
        1_644_515_328,
    ),
    "bloom-560m": (
        {"model_type": "bloom", "n_embed": 1024, "n_layer": 24, "num_attention_heads": 16, "vocab_size": 250880},
        559_214_592,
    ),
    "mpt-7b": (
        {
            "model_type": "mpt", "d_model": 4096, "n_heads": 32, "n_layers": 32, "vocab_size": 50432, "max_seq_len": 2048,
            "attn_config": {"alibi": True, "alibi_bias_max": 8, "attn_type": "multihead_attention", "clip_qkv": None},
        },
        6_649_286_656,
    ),
}  # fmt: skip
"""The deciding fields of published config.json files, and the number of parameters that their authors state."""


def read(fields: dict[str, Any]) -> Any:
    return FAMILIES[fields["model_type"]].read_config(fields)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations_have_the_stated_number_of_parameters(name: str):
    fields, stated = PUBLISHED[name]
    assert sum(weight.numel() for weight in build_meta_model(read(fields)).parameters()) == stated


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("falcon-7b", {"alibi": True}, "alibi = True"),
        ("falcon-7b", {"num_ln_in_parallel_attn": 2}, "num_ln_in_parallel_attn = 2"),
        ("falcon-7b", {"new_decoder_architecture": True, "parallel_attn": False}, "parallel_attn = False"),
        ("opt-125m", {"word_embed_proj_dim": 512}, "word_embed_proj_dim = 512"),
        ("opt-125m", {"_remove_final_layer_norm": True}, "_remove_final_layer_norm"),
        ("gpt-j-6b", {"rotary_dim": None}, "rotary_dim = None"),
        ("gpt-j-6b", {"activation_function": "quick_gelu"}, "activation_function = 'quick_gelu'"),
        ("phi-2", {"partial_rotary_factor": 0.4125}, "rotary_dim = 33 is odd"),
        ("phi-2", {"head_dim": 64, "qk_layernorm": True}, "head_dim = 64"),
        ("stablelm-2-1_6b", {"head_dim": 32}, "head_dim = 32"),
        ("bloom-560m", {"apply_residual_connection_post_layernorm": True}, "apply_residual_connection_post_layernorm"),
        ("mpt-7b", {"attn_config": {"clip_qkv": 6}}, "attn_config.clip_qkv = 6"),
        ("mpt-7b", {"attn_config": {"alibi": False}}, "attn_config.alibi = False"),
        ("mpt-7b", {"expansion_ratio": 3}, "expansion_ratio = 3"),
    ],
)
def test_unsupported_settings_are_refused_by_name(name: str, change: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        read(PUBLISHED[name][0] | change)


def test_keys_may_have_the_names_of_other_families():
    fields = PUBLISHED["gpt-j-6b"][0]
    renamed = {{"n_embd": "hidden_size", "n_layer": "num_hidden_layers"}.get(key, key): fields[key] for key in fields}
    assert read(renamed) == read(fields)
