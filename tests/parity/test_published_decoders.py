"""Dense decoders whose config.json has the fields of a published model, with its ratios in small; and what is refused by name."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from groundup.artifacts.errors import UserError
from groundup.interop.huggingface_model import huggingface_model_config

sys.path.insert(0, str(Path(__file__).parent))
from family_draws import DrawnModel
from test_random_families import LIMIT, measure_draw

COMMON: dict[str, Any] = {
    "vocab_size": 131, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None,
    "attention_dropout": 0.0, "initializer_range": 0.02, "use_cache": True,
}  # fmt: skip
FACTORS = [1.0, 1.1, 1.25, 1.5, 2.0, 4.0]
YARN = {
    "beta_fast": 32.0, "beta_slow": 1.0, "factor": 16.0, "mscale": 1.0, "mscale_all_dim": 1.0, "rope_theta": 1e6,
    "original_max_position_embeddings": 16384, "rope_type": "yarn", "llama_4_scaling_beta": 0.1,
}  # fmt: skip
PUBLISHED: dict[str, dict[str, Any]] = {
    "OLMo-7B": {
        "model_type": "olmo", "attention_bias": False, "clip_qkv": None, "max_position_embeddings": 2048,
        "num_key_value_heads": 4, "rope_scaling": None, "rope_theta": 10000.0, "tie_word_embeddings": False,
    },
    "OLMo-2-7B": {
        "model_type": "olmo2", "attention_bias": False, "max_position_embeddings": 4096, "num_key_value_heads": 4,
        "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 500000, "tie_word_embeddings": False,
    },
    "Olmo-3-7B": {
        "model_type": "olmo3", "attention_bias": False, "max_position_embeddings": 65536, "num_key_value_heads": 4,
        "rms_norm_eps": 1e-6, "rope_theta": 500000, "sliding_window": 11, "tie_word_embeddings": False,
        "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
        "rope_scaling": {
            "attention_factor": 1.2079441541679836, "beta_fast": 32, "beta_slow": 1, "factor": 8.0,
            "original_max_position_embeddings": 8192, "rope_type": "yarn",
        },
    },
    "EXAONE-4.0-32B": {
        "model_type": "exaone4", "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 1000000,
        "sliding_window": 11, "sliding_window_pattern": "LLLG", "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
        "rope_scaling": {
            "factor": 16.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
    },
    "SmolLM3-3B": {
        "model_type": "smollm3", "attention_bias": False, "mlp_bias": False, "max_position_embeddings": 65536,
        "max_window_layers": 28, "no_rope_layer_interval": 4, "no_rope_layers": [1, 1, 1, 0], "rms_norm_eps": 1e-6,
        "rope_scaling": None, "rope_theta": 5000000.0, "sliding_window": None, "use_sliding_window": False,
        "layer_types": ["full_attention"] * 4,
    },
    "granite-3.3-2b": {
        "model_type": "granite", "attention_bias": False, "attention_multiplier": 0.015625, "embedding_multiplier": 12.0,
        "logits_scaling": 8.0, "residual_multiplier": 0.22, "max_position_embeddings": 131072, "mlp_bias": False,
        "rms_norm_eps": 1e-5, "rope_scaling": None, "rope_theta": 10000000.0, "tie_word_embeddings": True,
    },
    "Seed-OSS-36B": {
        "model_type": "seed_oss", "attention_bias": True, "attention_out_bias": False, "head_dim": 32, "mlp_bias": False,
        "max_position_embeddings": 524288, "rms_norm_eps": 1e-6, "rope_theta": 10000000.0,
        "rope_scaling": {"rope_type": "default"},
    },
    "Ministral-3-8B": {
        "model_type": "ministral3", "head_dim": 32, "max_position_embeddings": 262144, "rms_norm_eps": 1e-5,
        "rope_parameters": YARN, "sliding_window": None, "tie_word_embeddings": False,
    },
    "Phi-3-mini-128k": {
        "model_type": "phi3", "hidden_size": 48, "max_position_embeddings": 131072, "num_key_value_heads": 4,
        "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "sliding_window": 262144,
        "rope_scaling": {"long_factor": FACTORS, "short_factor": [1.0] * 6, "type": "longrope"},
    },
    "Phi-4-mini": {
        "model_type": "phi3", "max_position_embeddings": 131072, "original_max_position_embeddings": 4096,
        "partial_rotary_factor": 0.75, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "sliding_window": 262144,
        "rope_scaling": {"long_factor": FACTORS, "short_factor": [1.0] * 6, "type": "longrope"},
        "tie_word_embeddings": True,
    },
    "GLM-4-9B-0414": {
        "model_type": "glm4", "attention_bias": False, "head_dim": 16, "max_position_embeddings": 32768,
        "partial_rotary_factor": 0.5, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
    },
    "command-r7b": {
        "model_type": "cohere2", "attention_bias": False, "layer_norm_eps": 1e-5, "logit_scale": 0.25,
        "max_position_embeddings": 8192, "order_of_interleaved_layers": "local_attn_first",
        "position_embedding_type": "rope_gptj",
        "rope_scaling": None, "rope_theta": 50000, "rotary_pct": 1.0, "sliding_window": 11, "sliding_window_pattern": 4,
        "use_embedding_sharing": True, "use_gated_activation": True, "use_parallel_block": True,
    },
    "Minitron-4B": {
        "model_type": "nemotron", "attention_bias": False, "head_dim": 16, "hidden_act": "relu2", "mlp_bias": False,
        "max_position_embeddings": 4096, "norm_eps": 1e-5, "partial_rotary_factor": 0.5, "rope_theta": 10000,
        "tie_word_embeddings": False,
    },
    "nanochat-d20": {
        "model_type": "nanochat", "final_logit_softcapping": 15.0, "hidden_act": "relu2", "max_position_embeddings": 2048,
        "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False,
    },
    "Apertus-8B": {
        "model_type": "apertus", "attention_bias": False, "hidden_act": "xielu", "max_position_embeddings": 65536,
        "mlp_bias": False, "post_norm": False, "qk_norm": True, "rms_norm_eps": 1e-5, "rope_theta": 12000000,
        "rope_scaling": {
            "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_decoder_has_equal_logits_both_ways(name: str, tmp_path: Path):
    drawn = DrawnModel(COMMON | PUBLISHED[name])
    assert max(measure_draw(drawn, tmp_path)) < LIMIT


SHAPE = {**COMMON, "max_position_embeddings": 64}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "olmo", "clip_qkv": 8.0}, "clip_qkv = 8.0 is not supported, expected null"),
        (
            {"model_type": "seed_oss", "attention_bias": False, "attention_out_bias": True},
            "attention_out_bias = true with attention_bias = false is not supported",
        ),
        (
            {"model_type": "nanochat", "rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
            "rope_type = 'yarn' in a nanochat model, expected default, linear or llama3",
        ),
        ({"model_type": "phi3", "rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_type = 'linear' in a phi3 model"),
        (
            {"model_type": "phi3", "rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}},
            "rope_scaling.short_factors has 1 numbers, expected 8",
        ),
        ({"model_type": "exaone4", "sliding_window_pattern": "LLLG"}, "sliding_window_pattern = 'LLLG' without layer_types"),
    ],
    ids=["clip_qkv", "output_bias", "nanochat_yarn", "phi3_linear", "longrope_length", "exaone4_pattern"],
)  # fmt: skip
def test_what_is_not_supported_is_named(fields: dict[str, Any], message: str, tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps(SHAPE | fields))
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(UserError) as error:
        huggingface_model_config(tmp_path)
    assert message in error.value.message
