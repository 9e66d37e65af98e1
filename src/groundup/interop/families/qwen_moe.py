"""Qwen2-MoE, Qwen3-MoE, OLMoE and FlexOlmo: softmax routing without load balancing in the files.

Sources: the configuration and modelling files of transformers 5, models/{qwen2_moe,qwen3_moe,olmoe,flex_olmo}.
"""

from dataclasses import replace

from groundup.artifacts.errors import UserError
from groundup.interop.families.family import Json, map_value
from groundup.interop.families.llama import BIASES, DEFAULTS, read_decoder, write_decoder, write_qwen_layers
from groundup.interop.families.mixtral import MIXTRAL, experts_map
from groundup.interop.families.olmo import OUTPUT_NORMS
from groundup.interop.families.rope_config import read_layers, read_rope
from groundup.recipe import ModelConfig

EXPERT_DEFAULTS: Json = {**DEFAULTS, "norm_topk_prob": False, "mlp_only_layers": None, "decoder_sparse_step": 1}
QKV_BIASES = {True: "qkv", False: "none"}
SHARED_EXPERTS = {
    "blocks.*.feed_forward.shared_experts.gate.": "model.layers.*.mlp.shared_expert_gate.",
    "blocks.*.feed_forward.shared_experts.": "model.layers.*.mlp.shared_expert.",
}


def read_experts(json: Json) -> Json:
    step, dense = json["decoder_sparse_step"], json["mlp_only_layers"] or ()
    return {
        "num_experts": json.get("num_local_experts") or json["num_experts"],
        "experts_per_token": json["num_experts_per_tok"],
        "intermediate_size": json["moe_intermediate_size"],
        "dense_layers": [i for i in range(json["num_hidden_layers"]) if i in dense or (i + 1) % step],
        "normalize_scores": json["norm_topk_prob"],
    }


def write_experts(config: ModelConfig) -> Json:
    assert config.moe
    return {
        "num_experts": config.moe.num_experts,
        "num_experts_per_tok": config.moe.experts_per_token,
        "moe_intermediate_size": config.moe.intermediate_size,
        "norm_topk_prob": config.moe.normalize_scores,
        "mlp_only_layers": [layer for layer in range(config.num_layers) if config.moe.is_dense(layer)],
        "decoder_sparse_step": 1,
    }


def _read_qwen3_moe(json: Json) -> Json:
    window = json.get("sliding_window") if json.get("use_sliding_window") else None
    return read_decoder(json) | {
        "qk_norm": True,
        "attention_bias": map_value(json, "attention_bias", BIASES),
        **read_layers(["sliding_attention"], window),
        "moe": read_experts(json),
    }


def _write_qwen3_moe(config: ModelConfig) -> Json:
    return write_decoder(config) | {
        "attention_bias": config.attention_bias != "none",
        "use_sliding_window": config.sliding_window is not None,
        "sliding_window": config.sliding_window,
        **write_experts(config),
    }


def _read_qwen2_moe(json: Json) -> Json:
    shared, size = json["shared_expert_intermediate_size"], json["moe_intermediate_size"]
    if shared % size or not shared:
        raise UserError(
            f"shared_expert_intermediate_size = {shared}, expected a multiple of moe_intermediate_size = {size}"
        )
    types = ["full_attention" if i % 2 or i >= json["max_window_layers"] else "sliding_attention"
             for i in range(json["num_hidden_layers"])]  # fmt: skip
    window = json.get("sliding_window") if json.get("use_sliding_window") else None
    shared_experts = {"num_shared_experts": shared // size, "shared_expert_gate": True}
    return read_decoder(json) | {
        "attention_bias": map_value(json, "qkv_bias", QKV_BIASES),
        **read_layers(json.get("layer_types") or types, window),
        "moe": read_experts(json) | shared_experts,
    }


def _write_qwen2_moe(config: ModelConfig) -> Json:
    assert config.moe
    return write_decoder(config) | {
        "qkv_bias": config.attention_bias != "none",
        **write_qwen_layers(config),
        "shared_expert_intermediate_size": config.moe.num_shared_experts * config.moe.intermediate_size,
        **write_experts(config),
    }


def _read_olmoe(json: Json) -> Json:
    return read_decoder(json) | {
        "qk_norm": True,
        "qk_norm_type": "projection",
        "attention_bias": map_value(json, "attention_bias", BIASES),
        "moe": {
            "num_experts": json["num_experts"],
            "experts_per_token": json["num_experts_per_tok"],
            "normalize_scores": json["norm_topk_prob"],
        },
    }


def _write_olmoe(config: ModelConfig) -> Json:
    assert config.moe
    return write_decoder(config) | {
        "attention_bias": config.attention_bias != "none",
        "num_experts": config.moe.num_experts,
        "num_experts_per_tok": config.moe.experts_per_token,
        "norm_topk_prob": config.moe.normalize_scores,
    }


def _read_flex_olmo(json: Json) -> Json:
    return _read_olmoe(json) | {**read_rope(json, default_theta=500_000.0), "norm_placement": "sublayer_output"}


QWEN3_MOE = replace(
    MIXTRAL,
    name="qwen3_moe",
    architecture="Qwen3MoeForCausalLM",
    defaults={
        **EXPERT_DEFAULTS,
        "num_experts": 128,  # also called num_local_experts in transformers 5
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
    },
    read=_read_qwen3_moe,
    write=_write_qwen3_moe,
    weight_map=experts_map(),
)
QWEN2_MOE = replace(
    QWEN3_MOE,
    name="qwen2_moe",
    architecture="Qwen2MoeForCausalLM",
    defaults={
        **EXPERT_DEFAULTS,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "qkv_bias": True,
        "sliding_window": 4096,
        "max_window_layers": 28,
    },
    read=_read_qwen2_moe,
    write=_write_qwen2_moe,
    weight_map=experts_map(table=SHARED_EXPERTS),
)
OLMOE = replace(
    QWEN3_MOE,
    name="olmoe",
    architecture="OlmoeForCausalLM",
    defaults={**DEFAULTS, "rms_norm_eps": 1e-5, "num_experts": 64, "num_experts_per_tok": 8, "norm_topk_prob": False},
    fixed={"clip_qkv": None},
    read=_read_olmoe,
    write=_write_olmoe,
)
FLEX_OLMO = replace(
    OLMOE,
    name="flex_olmo",
    architecture="FlexOlmoForCausalLM",
    defaults={**OLMOE.defaults, "rms_norm_eps": 1e-6, "num_experts": 7, "num_experts_per_tok": 5},
    fixed={},
    read=_read_flex_olmo,
    weight_map=experts_map(table=OUTPUT_NORMS),
)
