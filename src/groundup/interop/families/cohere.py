"""Cohere's Command R, R7B and A: parallel parts with one norm, scaled logits, neighbouring pairs in RoPE.

From Command R7B on (cohere2) only layers with a sliding window rotate. Sources: the configuration and modelling files of
transformers 5, models/{cohere,cohere2}.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from groundup.interop.families.family import Json, map_value
from groundup.interop.families.glm import map_interleaved_names
from groundup.interop.families.llama import BIASES, DEFAULTS, KEYS, LLAMA, TENSORS, read_decoder, write_decoder
from groundup.interop.families.rope_config import read_layers, write_layers
from groundup.interop.row_order import map_interleaved
from groundup.interop.weight_map import TensorMap
from groundup.recipe import ModelConfig


def _read_shared(json: Json) -> Json:
    return read_decoder(json) | {
        "norm": "layernorm",
        "norm_placement": "parallel",
        "shared_norm": True,
        "logit_scale": json["logit_scale"],
        "attention_bias": map_value(json, "attention_bias", BIASES),
    }


def _write_shared(config: ModelConfig) -> Json:
    bias = {"attention_bias": config.attention_bias != "none"}
    return write_decoder(config) | bias | {"logit_scale": config.logit_scale}


def _read_cohere(json: Json) -> Json:
    norms = {"qk_norm": True, "qk_norm_type": "per_head"} if json["use_qk_norm"] else {}
    return _read_shared(json) | norms


def _write_cohere(config: ModelConfig) -> Json:
    return _write_shared(config) | {"use_qk_norm": config.qk_norm}


def _read_cohere2(json: Json) -> Json:
    every = json["sliding_window_pattern"]
    types = ["sliding_attention" if (i + 1) % every else "full_attention" for i in range(json["num_hidden_layers"])]
    types = json["layer_types"] or types
    layers = read_layers(types, json["sliding_window"])
    return _read_shared(json) | layers | {"rope_pattern": tuple(kind == "sliding_attention" for kind in types)}


def _write_cohere2(config: ModelConfig) -> Json:
    layers = {"sliding_window": config.sliding_window or config.context_length, "layer_types": write_layers(config)}
    return _write_shared(config) | layers


def _weight_map(config: ModelConfig, names: Sequence[str]) -> Iterator[TensorMap]:
    norms = [name for name in names if "q_norm." in name or "k_norm." in name]
    yield from map_interleaved_names(config, [name for name in names if name not in norms], TENSORS)
    for name in norms:
        heads = config.num_heads if "q_norm." in name else config.num_kv_heads
        foreign = name.replace("blocks.", "model.layers.").replace(".attention.", ".self_attn.")
        rows = map_interleaved(name, foreign, heads, config.head_dim)
        yield replace(
            rows,
            to_native=lambda tensors, rows=rows: rows.to_native([tensors[0].flatten()]),
            to_foreign=lambda tensors, rows=rows: [rows.to_foreign(tensors)[0].view(-1, config.head_dim)],
        )


COHERE = replace(
    LLAMA,
    name="cohere",
    architecture="CohereForCausalLM",
    keys={**KEYS, "norm_eps": "layer_norm_eps"},
    defaults={
        **DEFAULTS,
        "rope_theta": 500_000.0,
        "layer_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "logit_scale": 0.0625,
        "use_qk_norm": False,
    },
    read=_read_cohere,
    write=_write_cohere,
    weight_map=_weight_map,
)
COHERE2 = replace(
    COHERE,
    name="cohere2",
    architecture="Cohere2ForCausalLM",
    defaults={
        **COHERE.defaults,
        "rope_theta": 10_000.0,
        "sliding_window": 4096,
        "sliding_window_pattern": 4,
        "layer_types": None,
    },
    read=_read_cohere2,
    write=_write_cohere2,
)
