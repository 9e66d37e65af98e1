"""Decoders that differ from Llama in one thing: SmolLM3 (layers without rotation), Granite (scales), Seed-OSS, Ministral (two
generations), Arcee.

Sources: the configuration and modelling files of transformers 5, models/{smollm3,granite,seed_oss,ministral,ministral3,arcee}.
"""

from dataclasses import replace

from groundup.artifacts.errors import UserError
from groundup.interop.families.family import Json, inverse_map_value, map_value
from groundup.interop.families.llama import BIASES, DEFAULTS, LLAMA, read_decoder, write_decoder
from groundup.interop.families.rope_config import read_layers, read_rope, write_layers, write_rope
from groundup.recipe import ModelConfig

MINISTRAL3_ROPE: Json = {
    "rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 16_384,
    "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1,
}  # fmt: skip
PLAIN_ACTIVATIONS = {"relu2": "relu2", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"}
"""Of feed-forwards without a gate."""


def _read_biased(json: Json) -> Json:
    biases = {"attention_bias": map_value(json, "attention_bias", BIASES), "feed_forward_bias": json["mlp_bias"]}
    return read_decoder(json) | biases


def _write_biased(config: ModelConfig) -> Json:
    biases = {"attention_bias": config.attention_bias != "none", "mlp_bias": config.feed_forward_bias}
    return write_decoder(config) | biases


def _read_smollm3(json: Json) -> Json:
    count, every = json["num_hidden_layers"], json["no_rope_layer_interval"]
    rotated = json["no_rope_layers"] or [int((i + 1) % every != 0) for i in range(count)]
    window = json["sliding_window"] if json["use_sliding_window"] else None
    types = ["full_attention" if rotates else "sliding_attention" for rotates in rotated[:count]]
    layers = read_layers(json["layer_types"] or types, window)
    return _read_biased(json) | layers | {"rope_pattern": tuple(map(bool, rotated[:count]))}


def _write_smollm3(config: ModelConfig) -> Json:
    return _write_biased(config) | {
        "no_rope_layers": [int(config.rotates(layer)) for layer in range(config.num_layers)],
        "use_sliding_window": config.sliding_window is not None,
        "sliding_window": config.sliding_window,
        "layer_types": write_layers(config),
    }


def _read_granite(json: Json) -> Json:
    return _read_biased(json) | {
        "embedding_scale": json["embedding_multiplier"],
        "residual_scale": json["residual_multiplier"],
        "attention_scale": json["attention_multiplier"],
        "logit_scale": 1 / json["logits_scaling"],
    }


def _write_granite(config: ModelConfig) -> Json:
    return _write_biased(config) | {
        "embedding_multiplier": config.embedding_scale,
        "residual_multiplier": config.residual_scale,
        "attention_multiplier": config.attention_scale or config.head_dim**-0.5,
        "logits_scaling": 1 / config.logit_scale,
    }


def _read_seed_oss(json: Json) -> Json:
    inputs, output = json["attention_bias"], json["attention_out_bias"]
    if output and not inputs:
        raise UserError(
            "attention_out_bias = true with attention_bias = false is not supported, expected both or neither"
        )
    return _read_biased(json | {"attention_bias": output}) | ({"attention_bias": "qkv"} if inputs != output else {})


def _write_seed_oss(config: ModelConfig) -> Json:
    return _write_biased(config) | {"attention_out_bias": config.attention_bias == "all"}


def _read_ministral(json: Json) -> Json:
    types = json["layer_types"] or ["sliding_attention"] * json["num_hidden_layers"]
    return read_decoder(json) | read_layers(types, json["sliding_window"])


def _write_ministral(config: ModelConfig) -> Json:
    return write_decoder(config) | {"sliding_window": config.sliding_window, "layer_types": write_layers(config)}


def _read_ministral3(json: Json) -> Json:
    """Beyond the original length its queries are scaled by their position, so the context length is read as no more."""
    rope = json.get("rope_scaling") or json.get("rope_parameters") or MINISTRAL3_ROPE
    knobs = read_decoder(json | {"rope_parameters": rope}) | read_layers(["sliding_attention"], json["sliding_window"])
    if rope.get("llama_4_scaling_beta"):
        original = (knobs["rope_scaling"] or {}).get("original_context_length", json["max_position_embeddings"])
        knobs["context_length"] = min(original, json["max_position_embeddings"])
    return knobs


def _write_ministral3(config: ModelConfig) -> Json:
    fields = write_decoder(config)
    rope = {"rope_type": "default", "rope_theta": config.rope_theta, **(fields.pop("rope_scaling") or {})}
    original = rope.get("original_max_position_embeddings", config.context_length)
    unscaled = {"llama_4_scaling_beta": 0.0, "original_max_position_embeddings": original}
    return fields | {"sliding_window": config.sliding_window, "rope_parameters": rope | unscaled}


def _read_arcee(json: Json) -> Json:
    return {
        **read_rope(json),
        "feed_forward": map_value(json, "hidden_act", PLAIN_ACTIVATIONS),
        "feed_forward_bias": json["mlp_bias"],
        "attention_bias": map_value(json, "attention_bias", BIASES),
    }


def _write_arcee(config: ModelConfig) -> Json:
    return {
        **write_rope(config),
        "hidden_act": inverse_map_value(PLAIN_ACTIVATIONS, config.feed_forward),
        "mlp_bias": config.feed_forward_bias,
        "attention_bias": config.attention_bias != "none",
    }


SMOLLM3 = replace(
    LLAMA,
    name="smollm3",
    architecture="SmolLM3ForCausalLM",
    defaults={
        **DEFAULTS,
        "rope_theta": 2_000_000.0,
        "tie_word_embeddings": True,
        "no_rope_layers": None,
        "no_rope_layer_interval": 4,
        "use_sliding_window": False,
        "sliding_window": None,
        "layer_types": None,
    },
    read=_read_smollm3,
    write=_write_smollm3,
)
GRANITE = replace(
    LLAMA,
    name="granite",
    architecture="GraniteForCausalLM",
    defaults={
        **DEFAULTS,
        "embedding_multiplier": 1.0,
        "residual_multiplier": 1.0,
        "attention_multiplier": 1.0,
        "logits_scaling": 1.0,
    },
    read=_read_granite,
    write=_write_granite,
)
SEED_OSS = replace(
    LLAMA,
    name="seed_oss",
    architecture="SeedOssForCausalLM",
    defaults={**DEFAULTS, "head_dim": 128, "attention_bias": True, "attention_out_bias": False},
    read=_read_seed_oss,
    write=_write_seed_oss,
)
MINISTRAL = replace(
    LLAMA,
    name="ministral",
    architecture="MinistralForCausalLM",
    defaults={**DEFAULTS, "sliding_window": 4096, "layer_types": None},
    read=_read_ministral,
    write=_write_ministral,
)
MINISTRAL3 = replace(
    LLAMA,
    name="ministral3",
    architecture="Ministral3ForCausalLM",
    defaults={**DEFAULTS, "rms_norm_eps": 1e-5, "head_dim": 128, "sliding_window": None},
    read=_read_ministral3,
    write=_write_ministral3,
)
ARCEE = replace(
    LLAMA,
    name="arcee",
    architecture="ArceeForCausalLM",
    defaults={**DEFAULTS, "rms_norm_eps": 1e-5, "hidden_act": "relu2"},
    read=_read_arcee,
    write=_write_arcee,
)
