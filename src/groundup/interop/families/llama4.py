"""The text part of Llama 4: routed inputs are scaled, layers without rotation, dense layers between the sparse ones.

Beyond `attention_chunk_size` tokens its rotated layers attend within chunks, and beyond `floor_scale` the others sharpen
their scores. Neither has an effect on shorter texts: the context length is read as the shorter of the two.

Sources: Meta 2025, "The Llama 4 herd"; the configuration and modelling files of transformers 5, models/llama4.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.interop.families.ernie import split_interleaved
from groundup.interop.families.family import Json, map_value
from groundup.interop.families.llama import BIASES, DEFAULTS, KEYS, TENSORS, read_decoder, write_decoder
from groundup.interop.families.mixtral import EXPERTS, MIXTRAL
from groundup.interop.families.rope_config import read_rope
from groundup.interop.weight_map import TensorMap, map_names
from groundup.recipe import ModelConfig

NAMES = {
    "blocks.*.feed_forward.shared_experts.": "model.layers.*.feed_forward.shared_expert.",
    "blocks.*.feed_forward.": "model.layers.*.feed_forward.",
} | {native: foreign for native, foreign in TENSORS.items() if native != "blocks.*.feed_forward."}


def _read(json: Json) -> Json:
    count = json["num_hidden_layers"]
    every, step = json["no_rope_layer_interval"], json["interleave_moe_layer_step"]
    rotated = json["no_rope_layers"] or [int((i + 1) % every != 0) for i in range(count)]
    sparse = range(step - 1, count, step) if json["moe_layers"] is None else json["moe_layers"]
    chunk = json["attention_chunk_size"]
    types = json["layer_types"] or [
        "chunked_attention" if rotates and chunk is not None else "full_attention" for rotates in rotated
    ]
    if unknown := set(types) - {"chunked_attention", "full_attention"}:
        raise UserError(f"layer_types has {sorted(unknown)[0]!r}, expected chunked_attention or full_attention")
    rope = read_rope(json, default_theta=500_000.0)
    lengths = [rope.get("context_length", json["max_position_embeddings"])]
    if "chunked_attention" in types[:count]:
        lengths.append(chunk)
    if json["attn_temperature_tuning"] and not all(rotated[:count]):
        lengths.append(json["floor_scale"] - 1)
    return read_decoder(json) | {
        **rope,
        "context_length": min(lengths),
        "attention_bias": map_value(json, "attention_bias", BIASES),
        **({"qk_norm": True, "qk_norm_type": "unweighted", "qk_norm_after_rope": True} if json["use_qk_norm"] else {}),
        "rope_pattern": tuple(map(bool, rotated[:count])),
        "moe": {
            "num_experts": json["num_local_experts"],
            "experts_per_token": json["num_experts_per_tok"],
            "intermediate_size": json["intermediate_size"],
            "num_shared_experts": 1,
            "dense_layers": [i for i in range(count) if i not in sparse],
            "router_activation": "sigmoid",
            "normalize_scores": False,
            "scale_inputs": True,
        },
    }


def _write(config: ModelConfig) -> Json:
    assert config.moe
    return write_decoder(config) | {
        "attention_bias": config.attention_bias != "none",
        "use_qk_norm": config.qk_norm,
        "no_rope_layers": [int(config.rotates(layer)) for layer in range(config.num_layers)],
        "num_local_experts": config.moe.num_experts,
        "num_experts_per_tok": config.moe.experts_per_token,
        "intermediate_size": config.moe.intermediate_size,
        "moe_layers": [layer for layer in range(config.num_layers) if not config.moe.is_dense(layer)],
        "attention_chunk_size": None,
        "attn_temperature_tuning": False,
    }


def _weight_map(config: ModelConfig, names: Sequence[str]) -> Iterator[TensorMap]:
    """Matrices of experts are stored as (in, out), with gate and up concatenated."""
    maps, others = split_interleaved(config, names)
    yield from maps
    for name in others:
        if name.endswith(f"{EXPERTS}gate_proj"):
            layer = name.split(".")[1]
            native, foreign = f"blocks.{layer}{EXPERTS}", f"model.layers.{layer}{EXPERTS}"
            matrices = (f"{native}gate_proj", f"{native}up_proj")
            yield TensorMap(matrices, (f"{foreign}gate_up_proj",), _split, _join)
            yield TensorMap((f"{native}down_proj",), (f"{foreign}down_proj",), _transpose, _transpose)
    yield from map_names([name for name in others if EXPERTS not in name], NAMES)


def _transpose(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.transpose(1, 2) for tensor in tensors]


def _split(tensors: list[Tensor]) -> list[Tensor]:
    return _transpose(list(tensors[0].chunk(2, dim=2)))


def _join(tensors: list[Tensor]) -> list[Tensor]:
    return [torch.cat(_transpose(tensors), dim=2)]


LLAMA4_TEXT = replace(
    MIXTRAL,
    name="llama4_text",
    architecture="Llama4ForCausalLM",
    keys=KEYS | {"intermediate_size": "intermediate_size_mlp"},
    defaults={
        **DEFAULTS,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rms_norm_eps": 1e-5,
        "intermediate_size": 8192,
        "intermediate_size_mlp": 16384,
        "num_experts_per_tok": 1,
        "num_local_experts": 16,
        "moe_layers": None,
        "interleave_moe_layer_step": 1,
        "use_qk_norm": True,
        "no_rope_layers": None,
        "no_rope_layer_interval": 4,
        "attention_chunk_size": 8192,
        "layer_types": None,
        "attn_temperature_tuning": True,
        "floor_scale": 8192,
    },
    read=_read,
    write=_write,
    weight_map=_weight_map,
)
