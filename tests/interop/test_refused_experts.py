"""Settings of experts, latent attention and state-space layers that are refused, each by its key and value."""

from typing import Any

import pytest

from groundup.artifacts.errors import UserError
from groundup.interop.families import FAMILIES

SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "intermediate_size": 32, "moe_intermediate_size": 16, "max_position_embeddings": 64,
}  # fmt: skip
LATENT = SIZES | {
    "kv_lora_rank": 8, "q_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "num_experts_per_tok": 2,
    "n_routed_experts": 8,
}  # fmt: skip
MAMBA = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_heads": 4, "head_dim": 16, "expand": 2, "n_groups": 1
}  # fmt: skip
HUNYUAN = SIZES | {"num_experts": 4, "moe_topk": 2}
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 6, "long_factor": [2.0] * 6}

REFUSED = [
    ("mixtral", SIZES, {"num_experts_per_tok": 9}, "experts_per_token = 9, expected at most num_experts = 8"),
    ("mixtral", SIZES, {"hidden_act": "relu"}, "hidden_act = 'relu' is not supported"),
    (
        "qwen2_moe",
        SIZES,
        {"shared_expert_intermediate_size": 20},
        "shared_expert_intermediate_size = 20, expected a multiple",
    ),
    ("olmoe", SIZES, {"clip_qkv": 8.0}, "clip_qkv = 8.0, expected None"),
    ("granitemoeshared", SIZES, {"shared_intermediate_size": 20}, "shared_intermediate_size = 20, expected a multiple"),
    ("phimoe", SIZES, {"num_experts_per_tok": 3}, "num_experts_per_tok = 3, expected 2"),
    ("phimoe", SIZES, {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope_type = 'yarn' in a phimoe model"),
    (
        "phimoe",
        SIZES,
        {"rope_scaling": LONG | {"short_mscale": 1.0, "long_mscale": 1.2}},
        "short_mscale = 1.0 and long",
    ),
    ("hunyuan_v1_moe", HUNYUAN, {"num_experts": [4, 8]}, r"num_experts = \[4, 8\] differs between layers"),
    ("hunyuan_v1_moe", HUNYUAN, {"moe_topk": [1, 2]}, r"moe_topk = \[1, 2\] differs between layers"),
    ("ernie4_5_moe", SIZES, {"use_bias": True}, "use_bias = True, expected False"),
    (
        "llama4_text",
        SIZES,
        {"layer_types": ["sliding_attention"] * 2},
        "layer_types has 'sliding_attention', expected chunked",
    ),
    ("gpt_oss", SIZES, {"hidden_act": "gelu"}, "hidden_act = 'gelu', expected 'silu'"),
    ("glm4_moe", SIZES, {"n_group": 0}, "n_group = 0, expected at least 1"),
    ("glm4_moe", SIZES, {"n_group": 3}, "num_expert_groups = 3 does not divide"),
    ("deepseek_v3", LATENT, {"topk_group": 0}, "topk_group = 0, expected at least 1"),
    ("deepseek_v3", LATENT, {"n_group": 0}, "n_group = 0, expected at least 1"),
    ("deepseek_v3", LATENT, {"rope_interleave": False}, "rope_interleave = False, expected True"),
    ("deepseek_v3", LATENT, {"topk_group": 9}, "experts_groups_per_token = 9, expected at most num_expert_groups = 8"),
    ("deepseek_v2", LATENT, {"topk_method": "noaux_tc"}, "topk_method = 'noaux_tc' is not supported"),
    ("deepseek_v2", LATENT, {"topk_method": "group_limited_greedy", "n_group": None}, "without n_group and topk_group"),
    ("deepseek_v2", LATENT, {"hidden_size": 25}, "hidden_size = 25, expected a multiple of num_attention_heads"),
    ("deepseek_v2", LATENT, {"norm_topk_prob": True}, "norm_topk_prob = True, expected False"),
    (
        "glm4_moe_lite",
        LATENT,
        {"mlp_layer_types": ["dense", "wide"]},
        r"mlp_layer_types = \['dense', 'wide'\], expected",
    ),
    ("youtu", LATENT, {"rope_interleave": False}, "rope_interleave = False, expected True"),
    ("minicpm3", LATENT, {"mlp_bias": True}, "mlp_bias = True, expected False"),
    ("mamba2", MAMBA, {"expand": 3}, "expand = 3, expected num_heads head_dim / hidden_size = 2"),
    ("mamba2", MAMBA, {"time_step_limit": [0.1, 1.0]}, r"time_step_limit = \[0.1, 1.0\], expected \[0, inf\]"),
]


@pytest.mark.parametrize(("family", "fields", "wrong", "message"), REFUSED)
def test_settings_are_refused_by_key_and_value(family: str, fields: dict, wrong: dict, message: str):
    FAMILIES[family].read_config(fields)
    with pytest.raises(UserError, match=message):
        FAMILIES[family].read_config(fields | wrong)
