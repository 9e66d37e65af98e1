"""Mixtures of experts whose config.json has the fields of a published model, with its ratios in small."""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from family_draws import DrawnModel
from test_random_families import LIMIT, measure_draw

COMMON: dict[str, Any] = {"vocab_size": 131, "pad_token_id": None, "hidden_act": "silu", "rope_scaling": None}
QWEN = {"attention_dropout": 0.0, "decoder_sparse_step": 1, "router_aux_loss_coef": 0.001, "use_sliding_window": False}
SIGMOID = {"n_group": 1, "topk_group": 1, "norm_topk_prob": True, "first_k_dense_replace": 1}
PUBLISHED: dict[str, dict[str, Any]] = {
    "Qwen3-30B-A3B": {
        **QWEN, "model_type": "qwen3_moe", "attention_bias": False, "head_dim": 64, "hidden_size": 64, "intermediate_size": 96,
        "max_position_embeddings": 40960, "max_window_layers": 48, "mlp_only_layers": [], "moe_intermediate_size": 24,
        "norm_topk_prob": True, "num_attention_heads": 8, "num_experts": 32, "num_experts_per_tok": 8,
        "num_hidden_layers": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "sliding_window": None,
    },
    "Qwen1.5-MoE-A2.7B": {
        **QWEN, "model_type": "qwen2_moe", "hidden_size": 64, "intermediate_size": 96, "max_position_embeddings": 8192,
        "max_window_layers": 21, "moe_intermediate_size": 24, "norm_topk_prob": False, "num_attention_heads": 4,
        "num_experts": 15, "num_experts_per_tok": 4, "num_hidden_layers": 2, "num_key_value_heads": 4,
        "rms_norm_eps": 1e-6, "rope_theta": 1e6, "shared_expert_intermediate_size": 96, "sliding_window": 32768,
    },
    "OLMoE-1B-7B": {
        "model_type": "olmoe", "attention_bias": False, "clip_qkv": None, "hidden_size": 64, "intermediate_size": 32,
        "max_position_embeddings": 4096, "norm_topk_prob": False, "num_attention_heads": 4, "num_experts": 16,
        "num_experts_per_tok": 8, "num_hidden_layers": 2, "num_key_value_heads": 4, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
    },
    "granite-3.1-1b-a400m": {
        "model_type": "granitemoe", "attention_bias": False, "attention_multiplier": 0.015625, "embedding_multiplier": 12.0,
        "hidden_size": 64, "intermediate_size": 32, "logits_scaling": 6.0, "max_position_embeddings": 131072,
        "num_attention_heads": 4, "num_experts_per_tok": 8, "num_hidden_layers": 2, "num_key_value_heads": 2,
        "num_local_experts": 32, "residual_multiplier": 0.22, "rms_norm_eps": 1e-6, "rope_theta": 1.5e6,
        "tie_word_embeddings": True,
    },
    "GLM-4.5-Air": {
        **SIGMOID, "model_type": "glm4_moe", "attention_bias": True, "head_dim": 32, "partial_rotary_factor": 0.5,
        "hidden_size": 64, "intermediate_size": 80, "max_position_embeddings": 131072, "moe_intermediate_size": 24,
        "n_routed_experts": 16, "n_shared_experts": 1, "num_attention_heads": 12, "num_experts_per_tok": 8,
        "num_hidden_layers": 3, "num_key_value_heads": 1, "num_nextn_predict_layers": 1, "rms_norm_eps": 1e-5,
        "rope_theta": 1e6, "routed_scaling_factor": 1.0, "use_qk_norm": False,
    },
    "dots.llm1": {
        **SIGMOID, "model_type": "dots1", "attention_bias": False, "hidden_size": 64, "intermediate_size": 80,
        "max_position_embeddings": 32768, "max_window_layers": 62, "moe_intermediate_size": 24, "n_routed_experts": 16,
        "n_shared_experts": 2, "num_attention_heads": 4, "num_experts_per_tok": 6, "num_hidden_layers": 3,
        "num_key_value_heads": 4, "rms_norm_eps": 1e-5, "rope_theta": 1e7, "routed_scaling_factor": 2.5,
        "scoring_func": "noaux_tc", "sliding_window": None,
    },
    "ERNIE-4.5-21B-A3B": {
        "model_type": "ernie4_5_moe", "hidden_size": 80, "intermediate_size": 96, "max_position_embeddings": 131072,
        "moe_capacity": [64, 64, 64], "moe_gate": "topk", "moe_intermediate_size": 24, "moe_k": 6, "moe_layer_end_index": 2,
        "moe_layer_interval": 1, "moe_layer_start_index": 1, "moe_num_experts": 16, "moe_num_shared_experts": 2,
        "moe_use_aux_free": True, "num_attention_heads": 5, "num_hidden_layers": 3, "num_key_value_heads": 1,
        "num_nextn_predict_layers": 1, "rms_norm_eps": 1e-5, "rope_theta": 5e5, "tie_word_embeddings": True, "use_bias": False,
    },
    "MiniMax-M2": {
        "model_type": "minimax_m2", "attn_type_list": [1, 1], "head_dim": 32, "hidden_size": 48, "intermediate_size": 24,
        "max_position_embeddings": 196608, "num_attention_heads": 6, "num_experts_per_tok": 8, "num_hidden_layers": 2,
        "num_key_value_heads": 2, "num_local_experts": 32, "num_mtp_modules": 3, "qk_norm_type": "per_layer",
        "rms_norm_eps": 1e-6, "rope_theta": 5e6, "rotary_dim": 16, "scoring_func": "sigmoid", "shared_intermediate_size": 0,
        "use_mtp": True, "use_qk_norm": True, "use_routing_bias": True,
    },
    "Llama-4-Scout": {
        "model_type": "llama4_text", "attention_bias": False, "attention_chunk_size": 8192, "attn_scale": 0.1,
        "attn_temperature_tuning": True, "floor_scale": 8192, "head_dim": 32, "hidden_size": 80,
        "interleave_moe_layer_step": 1, "intermediate_size": 48, "intermediate_size_mlp": 96,
        "max_position_embeddings": 10485760, "no_rope_layers": [], "num_attention_heads": 5, "num_experts_per_tok": 1,
        "num_hidden_layers": 4, "num_key_value_heads": 1, "num_local_experts": 16, "rms_norm_eps": 1e-5, "rope_theta": 5e5,
        "rope_scaling": {
            "factor": 16.0, "high_freq_factor": 1.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "use_qk_norm": True,
    },
    "Llama-4-Maverick": {
        "model_type": "llama4_text", "attention_bias": False, "attention_chunk_size": 8192, "attn_temperature_tuning": True,
        "head_dim": 32, "hidden_size": 80, "interleave_moe_layer_step": 2, "intermediate_size": 48,
        "intermediate_size_mlp": 96, "max_position_embeddings": 1048576, "num_attention_heads": 5, "num_experts_per_tok": 1,
        "num_hidden_layers": 4, "num_key_value_heads": 1, "num_local_experts": 32, "rms_norm_eps": 1e-5, "rope_theta": 5e5,
        "use_qk_norm": False,
    },
    "Hunyuan-A13B": {
        "model_type": "hunyuan_v1_moe", "attention_bias": False, "head_dim": 32, "hidden_size": 64, "intermediate_size": 48,
        "max_position_embeddings": 32768, "moe_topk": [8, 8], "num_attention_heads": 8, "num_experts": 16,
        "num_hidden_layers": 2, "num_key_value_heads": 2, "num_shared_expert": [1, 1], "rms_norm_eps": 1e-5,
        "rope_theta": 1e4, "tie_word_embeddings": True, "use_cla": False, "use_qk_norm": True,
        "rope_scaling": {
            "alpha": 1000.0, "beta_fast": 32, "beta_slow": 1, "factor": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
            "type": "dynamic",
        },
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shape_has_equal_logits_both_ways(name: str, tmp_path: Path):
    drawn = DrawnModel(COMMON | PUBLISHED[name])
    assert max(measure_draw(drawn, tmp_path)) < LIMIT
