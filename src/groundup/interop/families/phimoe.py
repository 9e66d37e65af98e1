"""Phi-3.5-MoE: LayerNorm, biases everywhere, LongRoPE, experts chosen one after the other.

Source: the configuration and modelling files of transformers 5, models/phimoe. Its class uses the short factors of LongRoPE
in long texts, too; the published model and this one use the long ones.
"""

from dataclasses import replace

from groundup.artifacts.errors import UserError
from groundup.interop.families.family import Json, map_value
from groundup.interop.families.llama import ACTIVATIONS, BIASES, DEFAULTS, write_decoder
from groundup.interop.families.mixtral import MIXTRAL, MIXTRAL_MATRICES, MIXTRAL_PART, experts_map
from groundup.interop.families.rope_config import read_layers, read_rope
from groundup.recipe import ModelConfig


def _read(json: Json) -> Json:
    if json["num_experts_per_tok"] != 2:
        raise UserError(f"num_experts_per_tok = {json['num_experts_per_tok']}, expected 2 in a phimoe model")
    for key in ("rope_scaling", "rope_parameters"):
        if rope := json.get(key):
            json = json | {key: _with_attention_factor(rope)}
    return {
        **read_rope(json, default_theta=1_000_000.0),
        **read_layers(["sliding_attention"], json["sliding_window"]),
        "norm": "layernorm",
        "norm_bias": True,
        "feed_forward": map_value(json, "hidden_act", ACTIVATIONS),
        "attention_bias": map_value(json, "attention_bias", BIASES),
        "head_bias": json["lm_head_bias"],
        "moe": {
            "num_experts": json["num_local_experts"],
            "experts_per_token": json["num_experts_per_tok"],
            "router_activation": "sparsemixer",
            "router_jitter": json["router_jitter_noise"],
        },
    }


def _with_attention_factor(rope: Json) -> Json:
    """The scaling with its factor on cos and sin under the usual name."""
    method = rope.get("rope_type") or rope.get("type") or "default"
    if method == "default":
        return rope
    if method not in ("longrope", "su"):
        raise UserError(f"rope_type = {method!r} in a phimoe model, expected default or longrope")
    short, long = rope.get("short_mscale"), rope.get("long_mscale")
    if short != long or not short:
        raise UserError(f"short_mscale = {short!r} and long_mscale = {long!r}, expected one number for both")
    return {**rope, "rope_type": "longrope", "attention_factor": short}


def _write(config: ModelConfig) -> Json:
    assert config.moe
    fields = write_decoder(config)
    if config.rope_scaling and fields["rope_scaling"]:
        mscale = config.rope_scaling.attention_factor
        fields["rope_scaling"] |= {"short_mscale": mscale, "long_mscale": mscale}
    return fields | {
        "sliding_window": config.sliding_window,
        "attention_bias": config.attention_bias != "none",
        "lm_head_bias": config.head_bias,
        "num_local_experts": config.moe.num_experts,
        "num_experts_per_tok": config.moe.experts_per_token,
        "router_jitter_noise": config.moe.router_jitter,
    }


PHIMOE = replace(
    MIXTRAL,
    name="phimoe",
    architecture="PhimoeForCausalLM",
    defaults={
        **DEFAULTS,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "sliding_window": None,
        "num_experts_per_tok": 2,
        "num_local_experts": 16,
        "router_jitter_noise": 0.01,
        "lm_head_bias": False,
    },
    read=_read,
    write=_write,
    weight_map=experts_map(MIXTRAL_PART, MIXTRAL_MATRICES),
)
