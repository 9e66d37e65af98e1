"""dots.llm1, GLM-4.5, Solar Open and MiniMax-M2: experts chosen by sigmoid scores and a correction bias, as in DeepSeek-V3.

Sources: the configuration and modelling files of transformers 5, models/{dots1,glm4_moe,solar_open,minimax_m2}.
"""

from dataclasses import replace

from groundup.artifacts.errors import UserError
from groundup.interop.families.family import Json, map_value
from groundup.interop.families.llama import (
    ACTIVATIONS,
    BIASES,
    DEFAULTS,
    KEYS,
    read_decoder,
    read_qwen_layers,
    write_decoder,
    write_qwen_layers,
)
from groundup.interop.families.mixtral import MIXTRAL, MIXTRAL_MATRICES, MIXTRAL_PART, experts_map
from groundup.interop.families.rope_config import read_partial_rope, write_partial_rotary
from groundup.recipe import ModelConfig

EXPERT_DEFAULTS: Json = {
    **DEFAULTS,
    "routed_scaling_factor": 1.0,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
}
QKV_BIASES = {False: "none", True: "qkv"}
ROUTER_BIAS = {"blocks.*.feed_forward.router.load_balancer.bias": "model.layers.*.mlp.gate.e_score_correction_bias"}
MINIMAX_BIAS = {
    "blocks.*.feed_forward.router.load_balancer.bias": "model.layers.*.block_sparse_moe.e_score_correction_bias"
}
"""The bias of Wang et al. 2024, which their training has updated and ours goes on to update."""


def read_sigmoid_experts(json: Json) -> Json:
    """The experts of DeepSeek-V3 and its followers."""
    for key in ("n_group", "topk_group"):
        if json[key] == 0:
            raise UserError(f"{key} = 0, expected at least 1")
    return {
        "num_experts": json["n_routed_experts"],
        "experts_per_token": json["num_experts_per_tok"],
        "intermediate_size": json["moe_intermediate_size"],
        "num_shared_experts": json["n_shared_experts"],
        "num_dense_layers": json["first_k_dense_replace"],
        "router_activation": "sigmoid",
        "load_balancing": "bias",
        "normalize_scores": json["norm_topk_prob"],
        "routed_scale": json["routed_scaling_factor"],
        "num_expert_groups": json["n_group"],
        "experts_groups_per_token": json["topk_group"],
    }


def write_sigmoid_experts(config: ModelConfig) -> Json:
    assert config.moe
    return {
        "n_routed_experts": config.moe.num_experts,
        "num_experts_per_tok": config.moe.experts_per_token,
        "moe_intermediate_size": config.moe.intermediate_size,
        "n_shared_experts": config.moe.num_shared_experts,
        "first_k_dense_replace": sum(map(config.moe.is_dense, range(config.num_layers))),
        "norm_topk_prob": config.moe.normalize_scores,
        "routed_scaling_factor": config.moe.routed_scale,
        "n_group": config.moe.num_expert_groups,
        "topk_group": config.moe.experts_groups_per_token,
    }


def _read_dots1(json: Json) -> Json:
    return read_decoder(json) | {
        "qk_norm": True,
        "attention_bias": map_value(json, "attention_bias", BIASES),
        **read_qwen_layers({"max_window_layers": 62, **json, "use_sliding_window": True}),
        "moe": read_sigmoid_experts(json),
    }


def _write_dots1(config: ModelConfig) -> Json:
    bias = {"attention_bias": config.attention_bias != "none"}
    return write_decoder(config) | write_sigmoid_experts(config) | write_qwen_layers(config) | bias


def _read_glm4_moe(json: Json) -> Json:
    return {
        "feed_forward": map_value(json, "hidden_act", ACTIVATIONS),
        **read_partial_rope(json, default_factor=0.5),
        "qk_norm": json["use_qk_norm"],
        "attention_bias": map_value(json, "attention_bias", QKV_BIASES),
        "moe": read_sigmoid_experts(json),
    }


def _write_glm4_moe(config: ModelConfig) -> Json:
    return write_decoder(config) | write_sigmoid_experts(config) | {
        "partial_rotary_factor": write_partial_rotary(config),
        "use_qk_norm": config.qk_norm,
        "attention_bias": config.attention_bias != "none",
    }  # fmt: skip


def _read_solar_open(json: Json) -> Json:
    dense: Json = {"first_k_dense_replace": 0, "use_qk_norm": False}
    theta = read_partial_rope(json, default_theta=1_000_000.0)
    return _read_glm4_moe(json | dense) | theta


def _read_minimax_m2(json: Json) -> Json:
    if (rotary_dim := json.get("rotary_dim")) is not None:
        head_dim = json["head_dim"] or json["hidden_size"] // json["num_attention_heads"]
        json = {"partial_rotary_factor": rotary_dim / head_dim, **json}
    return {
        "feed_forward": map_value(json, "hidden_act", ACTIVATIONS),
        **read_partial_rope(json, default_theta=5_000_000.0),
        "qk_norm": True,
        "qk_norm_type": "projection",
        "moe": {
            "num_experts": json["num_local_experts"],
            "experts_per_token": json["num_experts_per_tok"],
            "router_activation": "sigmoid",
            "load_balancing": "bias",
        },
    }


def _write_minimax_m2(config: ModelConfig) -> Json:
    assert config.moe
    return write_decoder(config) | {
        "rotary_dim": config.rotary_dim or config.head_dim,
        "partial_rotary_factor": write_partial_rotary(config),
        "num_local_experts": config.moe.num_experts,
        "num_experts_per_tok": config.moe.experts_per_token,
    }


DOTS1 = replace(
    MIXTRAL,
    name="dots1",
    architecture="Dots1ForCausalLM",
    defaults={**EXPERT_DEFAULTS, "norm_topk_prob": False, "first_k_dense_replace": 0, "sliding_window": 4096},
    read=_read_dots1,
    write=_write_dots1,
    weight_map=experts_map(table=ROUTER_BIAS),
)
GLM4_MOE = replace(
    DOTS1,
    name="glm4_moe",
    architecture="Glm4MoeForCausalLM",
    defaults={
        **EXPERT_DEFAULTS,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "first_k_dense_replace": 1,
        "n_routed_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 1408,
        "n_shared_experts": 1,
        "use_qk_norm": False,
    },
    read=_read_glm4_moe,
    write=_write_glm4_moe,
    ignored=(*MIXTRAL.ignored, "model.layers.46.*", "model.layers.92.*"),
)
"""Ignored: the layers after the last that predict further tokens, of GLM-4.5-Air and GLM-4.5."""
SOLAR_OPEN = replace(
    GLM4_MOE,
    name="solar_open",
    architecture="SolarOpenForCausalLM",
    keys={knob: key for knob, key in KEYS.items() if knob != "intermediate_size"},
    defaults={**GLM4_MOE.defaults, "head_dim": 128, "moe_intermediate_size": 1280},
    read=_read_solar_open,
    ignored=MIXTRAL.ignored,
)
MINIMAX_M2 = replace(
    DOTS1,
    name="minimax_m2",
    architecture="MiniMaxM2ForCausalLM",
    defaults={
        **DEFAULTS,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "num_local_experts": 256,
        "num_experts_per_tok": 8,
    },
    read=_read_minimax_m2,
    write=_write_minimax_m2,
    weight_map=experts_map(MIXTRAL_PART, MIXTRAL_MATRICES, MINIMAX_BIAS),
)
