"""Nemotron 3, 4 and Minitron: LayerNorm whose weight is an offset from one, squared ReLU, half of each head rotates.

Source: the configuration and modelling files of transformers 5, models/nemotron.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from groundup.interop.families.family import Json, inverse_map_value, map_value
from groundup.interop.families.llama import BIASES, DEFAULTS, KEYS, LLAMA, TENSORS
from groundup.interop.families.llama_variants import PLAIN_ACTIVATIONS
from groundup.interop.families.rope_config import read_partial_rope, write_partial_rotary, write_rope
from groundup.interop.weight_map import TensorMap, map_names
from groundup.recipe import ModelConfig


def _read(json: Json) -> Json:
    return {
        **read_partial_rope(json, 0.5),
        "norm": "layernorm",
        "norm_bias": True,
        "feed_forward": map_value(json, "hidden_act", PLAIN_ACTIVATIONS),
        "feed_forward_bias": json["mlp_bias"],
        "attention_bias": map_value(json, "attention_bias", BIASES),
    }


def _write(config: ModelConfig) -> Json:
    return {
        **write_rope(config),
        "partial_rotary_factor": write_partial_rotary(config),
        "hidden_act": inverse_map_value(PLAIN_ACTIVATIONS, config.feed_forward),
        "mlp_bias": config.feed_forward_bias,
        "attention_bias": config.attention_bias != "none",
    }


def _weight_map(config: ModelConfig, names: Sequence[str]) -> Iterator[TensorMap]:
    for tensor_map in map_names(names, TENSORS):
        if tensor_map.native[0].endswith("norm.weight"):  # their weight is an offset from one
            yield replace(
                tensor_map, to_native=lambda tensors: [tensors[0] + 1.0], to_foreign=lambda tensors: [tensors[0] - 1.0]
            )
        else:
            yield tensor_map


NEMOTRON = replace(
    LLAMA,
    name="nemotron",
    architecture="NemotronForCausalLM",
    keys={**KEYS, "norm_eps": "norm_eps"},
    defaults={**DEFAULTS, "norm_eps": 1e-5, "hidden_act": "relu2"},
    read=_read,
    write=_write,
    weight_map=_weight_map,
)
