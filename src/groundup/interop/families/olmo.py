"""OLMo 1, 2 and 3, and EXAONE 4: from OLMo 2 on, norms of the output of each sublayer and of queries and keys.

Sources: the configuration and modelling files of transformers 5, models/{olmo,olmo2,olmo3,exaone4}.
"""

from dataclasses import replace
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.interop.families.family import Json, map_value
from groundup.interop.families.llama import BIASES, DEFAULTS, KEYS, LLAMA, TENSORS, read_decoder, write_decoder
from groundup.interop.families.rope_config import read_layers, read_two_ropes, write_layers, write_rope
from groundup.interop.weight_map import prefix_map
from groundup.recipe import ModelConfig

OUTPUT_NORMS = {
    "blocks.*.attention_post_norm.": "model.layers.*.post_attention_layernorm.",
    "blocks.*.feed_forward_post_norm.": "model.layers.*.post_feedforward_layernorm.",
}
OLMO3_THETA = 500_000.0


def _read_olmo(json: Json) -> Json:
    if json.get("clip_qkv") is not None:
        raise UserError(
            f"clip_qkv = {json['clip_qkv']!r} is not supported, expected null",
            hint="its successors OLMo 2 and OLMo 3 are not clipped",
        )
    return _read_biased(json) | {"norm": "unweighted_layernorm", "norm_eps": 1e-5}


def _read_biased(json: Json) -> Json:
    return read_decoder(json) | {"attention_bias": map_value(json, "attention_bias", BIASES)}


def _write_biased(config: ModelConfig) -> Json:
    return write_decoder(config) | {"attention_bias": config.attention_bias != "none"}


def _read_olmo2(json: Json) -> Json:
    norms = {"norm_placement": "sublayer_output", "qk_norm": True, "qk_norm_type": "projection"}
    return _read_biased(json) | norms


def _read_olmo3(json: Json) -> Json:
    types = ["sliding_attention" if (i + 1) % 4 else "full_attention" for i in range(json["num_hidden_layers"])]
    layers = read_layers(json.get("layer_types") or types, json["sliding_window"])
    # The older spelling has a base of the full layers only.
    return _read_olmo2(json) | layers | read_two_ropes(json, "rope_theta", "", (OLMO3_THETA, OLMO3_THETA))


def _write_olmo3(config: ModelConfig) -> Json:
    rope = write_rope(config)
    local = config.rope_theta if config.rope_local_theta is None else config.rope_local_theta
    full = {"rope_theta": config.rope_theta, **(rope["rope_scaling"] or {"rope_type": "default"})}
    return _write_biased(config) | {
        "sliding_window": config.sliding_window,
        "layer_types": write_layers(config),
        "rope_parameters": {"full_attention": full, "sliding_attention": {"rope_type": "default", "rope_theta": local}},
    }


def _read_exaone4(json: Json) -> Json:
    window, every = json["sliding_window"], json["sliding_window_pattern"]
    types: Any = json.get("layer_types")
    if window is not None and not types:
        if type(every) is not int or every < 1:
            raise UserError(f"sliding_window_pattern = {every!r} without layer_types, expected a number of layers")
        types = ["sliding_attention" if (i + 1) % every else "full_attention" for i in range(json["num_hidden_layers"])]
    layers = read_layers(types, window)
    rotated = (True,) if window is None else tuple(kind == "sliding_attention" for kind in types)
    norms = {"norm_placement": "sublayer_output", "qk_norm": True}
    return read_decoder(json) | layers | norms | {"rope_pattern": rotated}


def _write_exaone4(config: ModelConfig) -> Json:
    rotated = any(map(config.rotates, range(config.num_layers)))
    return write_decoder(config) | {
        "sliding_window": config.sliding_window if rotated else config.context_length,
        "layer_types": write_layers(config),
    }


OLMO = replace(
    LLAMA,
    name="olmo",
    architecture="OlmoForCausalLM",
    keys={knob: key for knob, key in KEYS.items() if knob != "norm_eps"},
    read=_read_olmo,
    write=_write_biased,
)
OLMO2 = replace(
    LLAMA,
    name="olmo2",
    architecture="Olmo2ForCausalLM",
    defaults={**DEFAULTS, "rms_norm_eps": 1e-5},
    read=_read_olmo2,
    write=_write_biased,
    weight_map=prefix_map(TENSORS | OUTPUT_NORMS),
)
OLMO3 = replace(
    OLMO2,
    name="olmo3",
    architecture="Olmo3ForCausalLM",
    defaults={**OLMO2.defaults, "sliding_window": 4096},
    read=_read_olmo3,
    write=_write_olmo3,
)
EXAONE4 = replace(
    OLMO2,
    name="exaone4",
    architecture="Exaone4ForCausalLM",
    defaults={**OLMO2.defaults, "sliding_window": 4096, "sliding_window_pattern": 4},
    read=_read_exaone4,
    write=_write_exaone4,
)
