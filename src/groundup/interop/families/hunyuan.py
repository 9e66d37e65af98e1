"""Hunyuan, dense and with experts: queries and keys are normalized after the rotation.

Sources: the configuration and modelling files of transformers 5, models/{hunyuan_v1_dense,hunyuan_v1_moe}.
"""

from dataclasses import replace
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.interop.families.family import Json, map_value
from groundup.interop.families.llama import BIASES, DEFAULTS, LLAMA, TENSORS, read_decoder, write_decoder
from groundup.interop.families.mixtral import MIXTRAL, experts_map
from groundup.interop.weight_map import prefix_map
from groundup.recipe import ModelConfig

NORMS = {
    "blocks.*.attention.q_norm.": "model.layers.*.self_attn.query_layernorm.",
    "blocks.*.attention.k_norm.": "model.layers.*.self_attn.key_layernorm.",
}
EXPERT_NAMES = {
    "blocks.*.feed_forward.router.": "model.layers.*.mlp.gate.wg.",
    "blocks.*.feed_forward.shared_experts.": "model.layers.*.mlp.shared_mlp.",
}


def _read(json: Json) -> Json:
    json = {key: _without_alpha(json, value) for key, value in json.items()}
    return read_decoder(json) | {
        "attention_bias": map_value(json, "attention_bias", BIASES),
        "qk_norm": True,
        "qk_norm_after_rope": True,
    }


def _without_alpha(json: Json, rope: Any) -> Any:
    """A RoPE scaling with `alpha` is a larger base: theta alpha^(K / (K - 2)) for heads of width K."""
    if not isinstance(rope, dict) or not rope.get("alpha"):
        return rope
    head_dim = json["head_dim"] or json["hidden_size"] // json["num_attention_heads"]
    theta = rope.get("rope_theta") or json.get("rope_theta") or 10_000.0
    return {"rope_type": "default", "rope_theta": theta * rope["alpha"] ** (head_dim / (head_dim - 2))}


def _write(config: ModelConfig) -> Json:
    return write_decoder(config) | {"attention_bias": config.attention_bias != "none"}


def _read_moe(json: Json) -> Json:
    experts: dict[str, int] = {}
    for key in ("num_experts", "moe_topk"):
        values = json[key] if isinstance(json[key], list) else [json[key]]
        if len(set(values)) != 1:
            raise UserError(f"{key} = {json[key]!r} differs between layers, expected one number")
        experts[key] = values[0]
    moe = {"num_experts": experts["num_experts"], "experts_per_token": experts["moe_topk"], "num_shared_experts": 1}
    return _read(json) | {"moe": moe}


def _write_moe(config: ModelConfig) -> Json:
    assert config.moe
    return _write(config) | {"num_experts": config.moe.num_experts, "moe_topk": config.moe.experts_per_token}


HUNYUAN_V1_DENSE = replace(
    LLAMA,
    name="hunyuan_v1_dense",
    architecture="HunYuanDenseV1ForCausalLM",
    defaults={**DEFAULTS, "rms_norm_eps": 1e-5},
    read=_read,
    write=_write,
    weight_map=prefix_map(NORMS | TENSORS),
)
HUNYUAN_V1_MOE = replace(
    MIXTRAL,
    name="hunyuan_v1_moe",
    architecture="HunYuanMoEV1ForCausalLM",
    defaults={**HUNYUAN_V1_DENSE.defaults, "num_experts": 1, "moe_topk": 1},
    read=_read_moe,
    write=_write_moe,
    weight_map=experts_map(table=NORMS | EXPERT_NAMES),
)
