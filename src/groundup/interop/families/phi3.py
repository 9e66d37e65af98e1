"""Phi-3, Phi-3.5 and Phi-4: Llama with fused matrices, LongRoPE, partial rotation in Phi-4-mini.

Source: the configuration and modelling files of transformers 5, models/phi3. Its files call LongRoPE "su" or "yarn", too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from groundup.artifacts.errors import UserError
from groundup.interop.families.family import Json, map_value
from groundup.interop.families.glm import map_gate_up
from groundup.interop.families.llama import ACTIVATIONS, DEFAULTS, LLAMA, TENSORS, write_decoder
from groundup.interop.families.rope_config import read_layers, read_partial_rope, write_partial_rotary
from groundup.interop.weight_map import TensorMap, map_concatenated, map_names
from groundup.recipe import ModelConfig

FUSED = (".q_proj.", ".k_proj.", ".v_proj.", ".gate_proj.", ".up_proj.")


def _read(json: Json) -> Json:
    for key in ("rope_scaling", "rope_parameters"):
        if rope := json.get(key):
            method = rope.get("rope_type") or rope.get("type") or "default"
            if method not in ("default", "longrope", "su", "yarn"):
                raise UserError(f"rope_type = {method!r} in a phi3 model, expected default or longrope")
            json = json | {key: {**rope, "rope_type": "default" if method == "default" else "longrope"}}
    return {
        **read_partial_rope(json),
        **read_layers(["sliding_attention"], json["sliding_window"]),
        "norm": "rmsnorm",
        "feed_forward": map_value(json, "hidden_act", ACTIVATIONS),
    }


def _write(config: ModelConfig) -> Json:
    fields = write_decoder(config)
    original = (fields["rope_scaling"] or {}).get("original_max_position_embeddings", config.context_length)
    return fields | {
        "original_max_position_embeddings": original,
        "partial_rotary_factor": write_partial_rotary(config),
        "sliding_window": config.sliding_window,
    }


def _weight_map(config: ModelConfig, names: Sequence[str]) -> Iterator[TensorMap]:
    yield from map_gate_up(config)
    heads = (config.num_heads, config.num_kv_heads, config.num_kv_heads)
    for i in range(config.num_layers):
        native = [f"blocks.{i}.attention.{part}_proj.weight" for part in "qkv"]
        sizes = [count * config.head_dim for count in heads]
        yield map_concatenated(native, f"model.layers.{i}.self_attn.qkv_proj.weight", sizes)
    yield from map_names([name for name in names if not any(part in name for part in FUSED)], TENSORS)


PHI3 = replace(
    LLAMA,
    name="phi3",
    architecture="Phi3ForCausalLM",
    defaults={**DEFAULTS, "rms_norm_eps": 1e-5, "sliding_window": None, "original_max_position_embeddings": 4096},
    read=_read,
    write=_write,
    weight_map=_weight_map,
)
