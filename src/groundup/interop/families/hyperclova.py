"""HyperCLOVA X (Granite's scales, also norms after each part), the Code World Model (windows), Jais 2 (LayerNorm, squared ReLU).

Sources: the configuration and modelling files of transformers 5, models/{hyperclovax,cwm,jais2}.
"""

from dataclasses import replace

from groundup.interop.families.family import Json, map_value
from groundup.interop.families.llama import DEFAULTS, KEYS, LLAMA, TENSORS, read_decoder, write_decoder
from groundup.interop.families.llama_variants import ARCEE, GRANITE
from groundup.interop.families.rope_config import read_layers, write_layers
from groundup.interop.weight_map import prefix_map
from groundup.recipe import ModelConfig

POST_NORMS = {
    "blocks.*.attention_post_norm.": "model.layers.*.post_norm1.",
    "blocks.*.feed_forward_post_norm.": "model.layers.*.post_norm2.",
}
CWM_ROPE: Json = {
    "rope_type": "llama3", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 8192,
    "low_freq_factor": 1.0, "high_freq_factor": 4.0,
}  # fmt: skip


def _read_hyperclovax(json: Json) -> Json:
    head_dim = json["head_dim"] or json["hidden_size"] // json["num_attention_heads"]
    scale = json["attention_multiplier"] or head_dim**-0.5
    return GRANITE.read(json | {"attention_multiplier": scale}) | {
        "logit_scale": json["logits_scaling"],  # a factor, not a divisor as Granite's
        "norm_placement": map_value(json, "use_post_norm", {True: "sandwich", False: "pre"}),
    }


def _write_hyperclovax(config: ModelConfig) -> Json:
    post_norm = {"use_post_norm": config.norm_placement == "sandwich"}
    return GRANITE.write(config) | post_norm | {"logits_scaling": config.logit_scale}


def _read_cwm(json: Json) -> Json:
    rope = json.get("rope_scaling") or json.get("rope_parameters") or CWM_ROPE
    types = ["sliding_attention" if i % 4 else "full_attention" for i in range(json["num_hidden_layers"])]
    layers = read_layers(json.get("layer_types") or types, json["sliding_window"])
    return read_decoder(json | {"rope_scaling": rope}) | layers | {"feed_forward_bias": json["mlp_bias"]}


def _write_cwm(config: ModelConfig) -> Json:
    fields = write_decoder(config)
    parameters = {"rope_type": "default", **(fields.pop("rope_scaling") or {}), "rope_theta": config.rope_theta}
    return fields | {
        "rope_parameters": parameters,
        "sliding_window": config.sliding_window,
        "layer_types": write_layers(config),
        "mlp_bias": config.feed_forward_bias,
    }


def _read_jais2(json: Json) -> Json:
    return ARCEE.read(json) | {"norm": "layernorm", "norm_bias": True}


HYPERCLOVAX = replace(
    GRANITE,
    name="hyperclovax",
    architecture="HyperCLOVAXForCausalLM",
    defaults={**GRANITE.defaults, "attention_multiplier": None, "use_post_norm": True},
    read=_read_hyperclovax,
    write=_write_hyperclovax,
    weight_map=prefix_map(POST_NORMS | TENSORS),
)
CWM = replace(
    LLAMA,
    name="cwm",
    architecture="CwmForCausalLM",
    defaults={**DEFAULTS, "rms_norm_eps": 1e-5, "head_dim": 128, "sliding_window": 8192, "rope_theta": 1e6},
    read=_read_cwm,
    write=_write_cwm,
)
JAIS2 = replace(
    ARCEE,
    name="jais2",
    architecture="Jais2ForCausalLM",
    keys={**KEYS, "norm_eps": "layer_norm_eps"},
    defaults={**DEFAULTS, "hidden_act": "relu2", "layer_norm_eps": 1e-5, "attention_bias": True, "mlp_bias": True},
    read=_read_jais2,
)
