"""Small models of each architecture that GGUF has: the knobs beyond `SHAPE`."""

from typing import Any

SHAPE: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 96,
    "num_layers": 2,
    "num_heads": 3,
    "num_kv_heads": 1,
    "intermediate_size": 64,
    "context_length": 256,
}
LLAMA3 = {"method": "llama3", "factor": 8.0, "original_context_length": 64}
EXPERTS = {"num_experts": 4, "experts_per_token": 2}
GEMMA: dict[str, Any] = {
    "norm": "zero_centered_rmsnorm",
    "feed_forward": "geglu_tanh",
    "embedding_scale": 96**0.5,
    "tie_embeddings": True,
}
SANDWICH: dict[str, Any] = {**GEMMA, "norm_placement": "sandwich", "sliding_window": 16}
GPT2: dict[str, Any] = {
    "norm": "layernorm",
    "norm_bias": True,
    "position_embedding": "learned",
    "attention_bias": "all",
    "feed_forward_bias": True,
    "num_kv_heads": 3,
}
ENCODER: dict[str, Any] = {
    "architecture": "encoder",
    "norm": "layernorm",
    "embedding_norm": True,
    "num_kv_heads": 3,
    "tie_embeddings": True,
}
T5: dict[str, Any] = {
    "architecture": "encoder_decoder",
    "position_embedding": "relative",
    "attention_scale": 1.0,
    "feed_forward": "geglu_tanh",
    "num_kv_heads": 3,
}
LAYERNORM: dict[str, Any] = {"norm": "layernorm", "norm_bias": True}
BIASES: dict[str, Any] = {**LAYERNORM, "attention_bias": "all", "feed_forward_bias": True}
PARALLEL: dict[str, Any] = {"norm": "layernorm", "norm_placement": "parallel", "shared_norm": True}
OLMO2: dict[str, Any] = {"norm_placement": "sublayer_output", "qk_norm": True, "qk_norm_type": "projection"}
UNNORMALIZED: dict[str, Any] = {**EXPERTS, "normalize_scores": False}
SIGMOID: dict[str, Any] = {
    **EXPERTS,
    "intermediate_size": 32,
    "num_shared_experts": 1,
    "num_dense_layers": 1,
    "router_activation": "sigmoid",
    "routed_scale": 2.5,
    "load_balancing": "bias",
}
GRANITE: dict[str, Any] = {
    "logit_scale": 1 / 3, "residual_scale": 0.22, "embedding_scale": 12.0, "attention_scale": 0.02,
}  # fmt: skip
LATENT: dict[str, Any] = {
    "num_kv_heads": 3,
    "head_dim": 40,
    "norm_eps": 1e-6,
    "latent_attention": {"kv_rank": 24, "q_rank": 48, "rope_head_dim": 16, "value_head_dim": 32},
}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama, biases": {"attention_bias": "all", "feed_forward_bias": True},
    "llama 3": {"rope_theta": 5e5, "rope_scaling": LLAMA3, "head_dim": 64, "tie_embeddings": True},
    "llama, linear RoPE": {"rope_scaling": {"method": "linear", "factor": 2.0}},
    "llama, YaRN": {"rope_scaling": {"method": "yarn", "factor": 4.0, "original_context_length": 64}},
    "mixtral": {"moe": EXPERTS},
    "qwen2": {"attention_bias": "qkv"},
    "qwen3": {"qk_norm": True, "head_dim": 64},
    "qwen3moe": {"qk_norm": True, "moe": {**EXPERTS, "intermediate_size": 32}},
    "qwen2, heads of a free width": {"attention_bias": "qkv", "head_dim": 64},
    "llama, YaRN with its factor": {
        "rope_scaling": {"method": "yarn", "factor": 4.0, "original_context_length": 64, "attention_factor": 1.3}
    },
    "gemma": GEMMA,
    "gemma2": {**SANDWICH, "attention_softcap": 50.0, "logit_softcap": 30.0, "attention_pattern": ["local", "global"]},
    "gemma3": {
        **SANDWICH,
        "num_layers": 7,
        "qk_norm": True,
        "attention_pattern": 5 * ["local"] + ["global"],
        "rope_theta": 1e6,
        "rope_local_theta": 1e4,
        "rope_scaling": {"method": "linear", "factor": 8.0},
    },
    "gpt2": {**GPT2, "feed_forward": "gelu_tanh", "tie_embeddings": True},
    "bert": {**ENCODER, **GPT2, "norm_placement": "post", "feed_forward": "gelu", "num_token_types": 2},
    "modernbert": {
        **ENCODER,
        "feed_forward": "geglu",
        "sliding_window": 9,
        "attention_pattern": ["global", "local", "local"],
        "num_layers": 3,
        "rope_theta": 160_000.0,
        "rope_local_theta": 10_000.0,
    },
    "t5": {**T5, "head_dim": 20, "num_encoder_layers": 3},
    "t5, tied": {**T5, "tie_embeddings": True, "logit_scale": 96**-0.5},
    "olmo2": OLMO2,
    "olmo3": {
        **OLMO2,
        "num_layers": 5,
        "sliding_window": 16,
        "attention_pattern": ["local"] * 3 + ["global"],
        "rope_local_theta": 10_000.0,
        "rope_scaling": {"method": "yarn", "factor": 4.0, "original_context_length": 64},
    },
    "smollm3": {"rope_pattern": [True, True, True, False], "num_layers": 5},
    "exaone4": {"norm_placement": "sublayer_output", "qk_norm": True},
    "granite": GRANITE,
    "seed_oss": {"attention_bias": "qkv", "head_dim": 64},
    "arcee": {"feed_forward": "relu2", "head_dim": 16},
    "glm4": {"norm_placement": "sandwich", "rotary_dim": 16, "attention_bias": "qkv"},
    "phi3": {"rotary_dim": 24},
    "stablelm": {**LAYERNORM, "rotary_dim": 8, "attention_bias": "qkv"},
    "stablelm, parallel": {**PARALLEL, "norm_bias": True, "rotary_dim": 8},
    "nemotron": {**LAYERNORM, "feed_forward": "relu2", "rotary_dim": 16},
    "cohere": {**PARALLEL, "tie_embeddings": True, "logit_scale": 0.25},
    "cohere2": {
        **PARALLEL,
        "tie_embeddings": True,
        "logit_scale": 0.25,
        "num_layers": 5,
        "sliding_window": 16,
        "attention_pattern": ["local"] * 3 + ["global"],
        "rope_pattern": [True, True, True, False],
    },
    "gpt_neox": {**BIASES, "norm_placement": "parallel", "rotary_dim": 8, "feed_forward": "gelu", "num_kv_heads": 3},
    "phi": {**BIASES, **PARALLEL, "norm_bias": True, "rotary_dim": 16, "feed_forward": "gelu_tanh", "head_bias": True},
    "falcon": {**PARALLEL, "norm_bias": True, "feed_forward": "gelu", "tie_embeddings": True},
    "starcoder": {**BIASES, "position_embedding": "learned", "feed_forward": "gelu_tanh", "tie_embeddings": True},
    "starcoder2": {**BIASES, "feed_forward": "gelu_tanh", "tie_embeddings": True},
    "qwen2_moe": {
        "attention_bias": "qkv",
        "moe": {**UNNORMALIZED, "intermediate_size": 32, "num_shared_experts": 3, "shared_expert_gate": True},
    },
    "olmoe": {
        "num_kv_heads": 3,
        "qk_norm": True,
        "qk_norm_type": "projection",
        "moe": {**UNNORMALIZED, "intermediate_size": 64},
    },
    "gpt_oss": {
        "attention_bias": "all",
        "attention_sinks": True,
        "feed_forward": "swiglu_clamped",
        "sliding_window": 16,
        "attention_pattern": ["local", "global"],
        "head_dim": 64,
        "moe": {**EXPERTS, "expert_bias": True, "router_bias": True, "intermediate_size": 64},
    },
    "glm4_moe": {"attention_bias": "qkv", "rotary_dim": 16, "moe": SIGMOID, "num_layers": 3},
    "dots1": {"num_kv_heads": 3, "qk_norm": True, "moe": SIGMOID, "num_layers": 3},
    "deepseek_v3": {
        **LATENT,
        "num_layers": 3,
        "moe": {**SIGMOID, "num_experts": 8, "num_expert_groups": 4, "experts_groups_per_token": 2},
        "rope_scaling": {
            "method": "yarn",
            "factor": 40.0,
            "original_context_length": 64,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
        },
    },
    "deepseek_v2": {
        **LATENT,
        "latent_attention": {"kv_rank": 24, "rope_head_dim": 16, "value_head_dim": 32},
        "moe": {**UNNORMALIZED, "intermediate_size": 32, "num_shared_experts": 2, "num_dense_layers": 1},
        "rope_scaling": {
            "method": "yarn",
            "factor": 40.0,
            "original_context_length": 64,
            "mscale": 0.707,
            "mscale_all_dim": 0.707,
        },
    },
    "youtu": {**LATENT, "tie_embeddings": True},
    "olmo": {"norm": "unweighted_layernorm"},
    "hunyuan_v1_dense": {"qk_norm": True, "qk_norm_after_rope": True, "head_dim": 64},
    "hunyuan_v1_moe": {
        "qk_norm": True,
        "qk_norm_after_rope": True,
        "moe": {**EXPERTS, "intermediate_size": 64, "num_shared_experts": 1},
    },
    "ernie4_5": {"head_dim": 64, "tie_embeddings": True},
    "ernie4_5_moe": {
        "num_layers": 3,
        "moe": {
            **EXPERTS,
            "intermediate_size": 32,
            "num_shared_experts": 2,
            "num_dense_layers": 1,
            "load_balancing": "bias",
        },
    },
    "granitemoe": {**GRANITE, "moe": {**EXPERTS, "intermediate_size": 64}},
    "granitemoeshared": {**GRANITE, "moe": {**EXPERTS, "intermediate_size": 64, "num_shared_experts": 2}},
    "glm": {"rotary_dim": 16, "attention_bias": "qkv"},
    "bloom": {
        **GPT2,
        "position_embedding": "alibi",
        "embedding_norm": True,
        "keep_first_norm": True,
        "feed_forward": "gelu_tanh",
        "intermediate_size": 384,
    },
    "mpt": {
        "norm": "layernorm",
        "num_kv_heads": 3,
        "position_embedding": "alibi",
        "feed_forward": "gelu",
        "intermediate_size": 384,
    },
    "distilbert": {**ENCODER, **GPT2, "norm_eps": 1e-12, "norm_placement": "post", "feed_forward": "gelu"},
    "nomic_bert": {
        **ENCODER,
        "norm_bias": True,
        "norm_placement": "post",
        "num_token_types": 2,
        "masked_head_activation": "silu",
        "masked_head_bias": True,
    },
    "minimax_m2": {
        "qk_norm": True,
        "qk_norm_type": "projection",
        "rotary_dim": 16,
        "moe": {
            **SIGMOID,
            "num_dense_layers": 0,
            "num_shared_experts": 0,
            "routed_scale": 1.0,
            "intermediate_size": 64,
        },
    },
}
"""By Hugging Face family, with what is special to the model."""


def widen(knobs: dict[str, Any]) -> dict[str, Any]:
    """The same model, eight times as wide: rows of 256 and more, the blocks of k-quants."""
    wide = {**SHAPE, **knobs}
    wide |= {name: 8 * wide[name] for name in ("hidden_size", "intermediate_size")}
    if "embedding_scale" in knobs and "logit_scale" not in knobs:  # Gemma's, the root of the width
        wide["embedding_scale"] = wide["hidden_size"] ** 0.5
    if knobs.get("logit_scale") == 96**-0.5:
        wide["logit_scale"] = wide["hidden_size"] ** -0.5
    if "moe" in knobs:
        moe = knobs["moe"]
        wide["moe"] = moe | ({"intermediate_size": 8 * moe["intermediate_size"]} if "intermediate_size" in moe else {})
    if "latent_attention" in knobs:
        latent = knobs["latent_attention"]
        wide["latent_attention"] = latent | {name: 256 for name in ("kv_rank", "q_rank") if name in latent}
    return wide
