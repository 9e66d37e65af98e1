"""Gemma 1, 2 and 3 (text): zero-centered norms, scaled embeddings, GeGLU; from 2 on sandwich norms.

Sources: the configuration and modelling files of transformers 5, models/{gemma,gemma2,gemma3}.
"""

from dataclasses import replace

from groundup.interop.families.family import Json, inverse_map_value, map_value
from groundup.interop.families.llama import ACTIVATIONS, BIASES, LLAMA, TENSORS
from groundup.interop.families.rope_config import read_layers, read_rope, read_two_ropes, write_layers, write_rope
from groundup.interop.weight_map import prefix_map
from groundup.recipe import ModelConfig

DEFAULTS: Json = {
    "head_dim": 256,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "hidden_activation": "gelu_pytorch_tanh",
}
GEMMA3_THETAS = (1_000_000.0, 10_000.0)
"""Default RoPE theta of full and of sliding layers."""

GEMMA1_ACTIVATIONS = {"gelu_pytorch_tanh": "geglu_tanh", **ACTIVATIONS, "gelu": "geglu_tanh"}
"""The first releases say "gelu" and mean its tanh approximation, as transformers reads them."""

SANDWICH = {
    "blocks.*.attention_post_norm.": "model.layers.*.post_attention_layernorm.",
    "blocks.*.feed_forward_norm.": "model.layers.*.pre_feedforward_layernorm.",
    "blocks.*.feed_forward_post_norm.": "model.layers.*.post_feedforward_layernorm.",
}
"""Gemma 2 and 3: post_attention_layernorm is another norm than Llama's."""


def _read_gemma(json: Json) -> Json:
    return {
        "norm": "zero_centered_rmsnorm",
        "embedding_scale": json["hidden_size"] ** 0.5,
        "attention_bias": map_value(json, "attention_bias", BIASES),
    }


def _read_gemma1(json: Json) -> Json:
    return _read_gemma(json) | read_rope(json) | {"feed_forward": map_value(json, "hidden_act", GEMMA1_ACTIVATIONS)}


def _write_gemma1(config: ModelConfig) -> Json:
    activation = inverse_map_value(GEMMA1_ACTIVATIONS, config.feed_forward)
    return {"hidden_act": activation, "attention_bias": config.attention_bias != "none", **write_rope(config)}


def _read_sandwich(json: Json) -> Json:
    return _read_gemma(json) | {
        "feed_forward": map_value(json, "hidden_activation", ACTIVATIONS),
        "norm_placement": "sandwich",
        "attention_scale": json["query_pre_attn_scalar"] ** -0.5,
        "attention_softcap": json["attn_logit_softcapping"],
        "logit_softcap": json["final_logit_softcapping"],
    }


def _write_sandwich(config: ModelConfig) -> Json:
    scalar = config.attention_scale**-2 if config.attention_scale else float(config.head_dim)
    return {
        "hidden_activation": inverse_map_value(ACTIVATIONS, config.feed_forward),
        "attention_bias": config.attention_bias != "none",
        "query_pre_attn_scalar": round(scalar),
        "attn_logit_softcapping": config.attention_softcap,
        "final_logit_softcapping": config.logit_softcap,
        "sliding_window": config.sliding_window or config.context_length,  # wanted even without local layers
        "layer_types": write_layers(config),
    }


def _read_gemma2(json: Json) -> Json:
    types = ["full_attention" if i % 2 else "sliding_attention" for i in range(json["num_hidden_layers"])]
    layers = read_layers(json.get("layer_types") or types, json["sliding_window"])
    return _read_sandwich(json) | layers | read_rope(json)


def _write_gemma2(config: ModelConfig) -> Json:
    return _write_sandwich(config) | write_rope(config)


def _read_gemma3(json: Json) -> Json:
    every = json.get("sliding_window_pattern") or 6
    types = ["sliding_attention" if (i + 1) % every else "full_attention" for i in range(json["num_hidden_layers"])]
    layers = read_layers(json.get("layer_types") or types, json["sliding_window"])
    ropes = read_two_ropes(json, "rope_theta", "rope_local_base_freq", GEMMA3_THETAS)
    return _read_sandwich(json) | layers | ropes | {"qk_norm": True}


def _write_gemma3(config: ModelConfig) -> Json:
    local = config.rope_theta if config.rope_local_theta is None else config.rope_local_theta
    return _write_sandwich(config) | write_rope(config) | {"rope_local_base_freq": local}


GEMMA = replace(
    LLAMA, name="gemma", architecture="GemmaForCausalLM", defaults={**DEFAULTS, "hidden_act": "gelu_pytorch_tanh"},
    fixed={"use_bidirectional_attention": None}, read=_read_gemma1, write=_write_gemma1,
)  # fmt: skip
GEMMA2 = replace(
    LLAMA,
    name="gemma2",
    architecture="Gemma2ForCausalLM",
    defaults={
        **DEFAULTS,
        "query_pre_attn_scalar": 256,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "sliding_window": 4096,
    },
    fixed={"use_bidirectional_attention": None},
    read=_read_gemma2,
    write=_write_gemma2,
    weight_map=prefix_map(TENSORS | SANDWICH),
)
GEMMA3 = replace(
    GEMMA2,
    name="gemma3_text",
    architecture="Gemma3ForCausalLM",
    defaults={**GEMMA2.defaults, "attn_logit_softcapping": None, "final_logit_softcapping": None},
    fixed={"use_bidirectional_attention": False, "attn_logit_softcapping": None},  # transformers never caps the scores
    read=_read_gemma3,
    write=_write_gemma3,
)
