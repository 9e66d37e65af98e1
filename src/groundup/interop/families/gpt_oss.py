"""gpt-oss: attention with sinks, every second layer local, experts with biases and a clamped SwiGLU.

Sources: OpenAI 2025, "gpt-oss-120b & gpt-oss-20b Model Card", section 2; the configuration and modelling files of
transformers 5, models/gpt_oss. Published weights are stored in MXFP4 (block_scaled_weights.py).
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from groundup.interop.families.family import Family, Json, map_value
from groundup.interop.families.llama import BIASES, BUFFERS, DEFAULTS, KEYS, TENSORS
from groundup.interop.families.rope_config import read_layers, read_rope, write_layers, write_rope
from groundup.interop.weight_map import TensorMap, map_names
from groundup.recipe import ModelConfig

PUBLISHED_ROPE: Json = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
NAMES = {
    "blocks.*.attention.attention_function.sinks": "model.layers.*.self_attn.sinks",
    "blocks.*.feed_forward.router.": "model.layers.*.mlp.router.",
    **TENSORS,
}
EXPERTS = ".feed_forward.experts."


def _read(json: Json) -> Json:
    types = json.get("layer_types") or [
        "full_attention" if i % 2 else "sliding_attention" for i in range(json["num_hidden_layers"])
    ]
    if not (json.get("rope_parameters") or json.get("rope_scaling")):
        json = {**json, "rope_parameters": PUBLISHED_ROPE}
    return {
        **read_rope(json, default_theta=150_000.0),
        **read_layers(types, json["sliding_window"]),
        "attention_bias": map_value(json, "attention_bias", BIASES),
        "attention_sinks": True,
        "feed_forward": "swiglu_clamped",
        "moe": {
            "num_experts": json.get("num_experts") or json["num_local_experts"],
            "experts_per_token": json["num_experts_per_tok"],
            "expert_bias": True,
            "router_bias": True,
        },
    }


def _write(config: ModelConfig) -> Json:
    assert config.moe
    rope = write_rope(config)
    if rope["rope_scaling"] is None:
        rope["rope_scaling"] = {"rope_type": "default"}  # without it: the published scaling
    return {
        **rope,
        "attention_bias": config.attention_bias != "none",
        "sliding_window": config.sliding_window
        or config.context_length,  # the class needs one without local layers, too
        "layer_types": write_layers(config),
        "num_local_experts": config.moe.num_experts,
        "num_experts_per_tok": config.moe.experts_per_token,
    }


def _weight_map(config: ModelConfig, names: Sequence[str]) -> Iterator[TensorMap]:
    """Matrices of experts are stored as (in, out), with the outputs of gate and up in turns."""
    for name in names:
        if name.endswith(f"{EXPERTS}gate_proj"):
            layer = name.split(".")[1]
            native, foreign = f"blocks.{layer}{EXPERTS}", f"model.layers.{layer}.mlp.experts."
            yield TensorMap(
                (f"{native}gate_proj", f"{native}up_proj"), (f"{foreign}gate_up_proj",), _split_columns, _join_columns
            )
            yield TensorMap(
                (f"{native}gate_bias", f"{native}up_bias"), (f"{foreign}gate_up_proj_bias",), _split_pairs, _join_pairs
            )
            yield TensorMap((f"{native}down_proj",), (f"{foreign}down_proj",), _transpose, _transpose)
            yield TensorMap((f"{native}down_bias",), (f"{foreign}down_proj_bias",))
    yield from map_names([name for name in names if EXPERTS not in name], NAMES)


def _split_pairs(tensors: list[Tensor]) -> list[Tensor]:
    return [tensors[0][..., ::2], tensors[0][..., 1::2]]


def _join_pairs(tensors: list[Tensor]) -> list[Tensor]:
    return [torch.stack(tensors, dim=-1).flatten(-2)]


def _transpose(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.transpose(1, 2) for tensor in tensors]


def _split_columns(tensors: list[Tensor]) -> list[Tensor]:
    return _transpose(_split_pairs(tensors))


def _join_columns(tensors: list[Tensor]) -> list[Tensor]:
    return _join_pairs(_transpose(tensors))


GPT_OSS = Family(
    name="gpt_oss",
    architecture="GptOssForCausalLM",
    keys=KEYS | {"swiglu_alpha": "swiglu_alpha", "swiglu_limit": "swiglu_limit"},
    defaults={
        **DEFAULTS,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "rms_norm_eps": 1e-5,
        "attention_bias": True,
        "sliding_window": 128,
        "num_local_experts": 128,
        "num_experts_per_tok": 4,
        "swiglu_alpha": 1.702,
        "swiglu_limit": 7.0,
    },
    moe=True,
    fixed={"hidden_act": "silu"},
    read=_read,
    write=_write,
    weight_map=_weight_map,
    ignored=BUFFERS,
)
