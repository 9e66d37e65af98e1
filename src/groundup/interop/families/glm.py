"""GLM-4 (two forms) and Helium: RoPE rotates neighbouring elements, in GLM half of each head; gate and up are one matrix in GLM.

Sources: the configuration and modelling files of transformers 5, models/{glm,glm4,helium}.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from groundup.interop.families.family import Json, map_value
from groundup.interop.families.llama import DEFAULTS, LLAMA, TENSORS, read_decoder, write_decoder
from groundup.interop.families.rope_config import read_partial_rope, write_partial_rotary
from groundup.interop.row_order import map_interleaved
from groundup.interop.weight_map import TensorMap, map_concatenated, map_names
from groundup.recipe import ModelConfig

INPUT_BIASES = {False: "none", True: "qkv"}
GLM4_NORMS = {
    "blocks.*.attention_post_norm.": "model.layers.*.post_self_attn_layernorm.",
    "blocks.*.feed_forward_post_norm.": "model.layers.*.post_mlp_layernorm.",
}


def _read_glm(json: Json) -> Json:
    bias = {"attention_bias": map_value(json, "attention_bias", INPUT_BIASES)}
    return read_decoder(json | {"rope_scaling": None, "rope_parameters": None}) | read_partial_rope(json, 0.5) | bias


def _write_glm(config: ModelConfig) -> Json:
    return _write_helium(config) | {"partial_rotary_factor": write_partial_rotary(config)}


def _read_glm4(json: Json) -> Json:
    return _read_glm(json) | {"norm_placement": "sandwich"}


def _read_helium(json: Json) -> Json:
    biases = {"attention_bias": map_value(json, "attention_bias", INPUT_BIASES), "feed_forward_bias": json["mlp_bias"]}
    return read_decoder(json) | biases


def _write_helium(config: ModelConfig) -> Json:
    biases = {"attention_bias": config.attention_bias != "none", "mlp_bias": config.feed_forward_bias}
    return write_decoder(config) | biases


def map_interleaved_names(config: ModelConfig, names: Sequence[str], table: dict[str, str]) -> Iterator[TensorMap]:
    """`map_names` with `table`, and pairs of RoPE as neighbours in the projections of queries and keys."""
    for tensor_map in map_names(names, table):
        name = tensor_map.native[0]
        if ".q_proj." in name or ".k_proj." in name:
            heads = config.num_heads if ".q_proj." in name else config.num_kv_heads
            yield map_interleaved(name, tensor_map.foreign[0], heads, config.head_dim, config.rotary_dim)
        else:
            yield tensor_map


def map_gate_up(config: ModelConfig) -> Iterator[TensorMap]:
    """The matrices gate and up of every layer as one."""
    for i in range(config.num_layers):
        native = [f"blocks.{i}.feed_forward.{part}.weight" for part in ("gate_proj", "up_proj")]
        yield map_concatenated(native, f"model.layers.{i}.mlp.gate_up_proj.weight", [config.intermediate_size] * 2)


def _weight_map_glm(config: ModelConfig, names: Sequence[str]) -> Iterator[TensorMap]:
    yield from map_gate_up(config)
    others = [name for name in names if ".gate_proj." not in name and ".up_proj." not in name]
    yield from map_interleaved_names(config, others, GLM4_NORMS | TENSORS)


GLM = replace(
    LLAMA,
    name="glm",
    architecture="GlmForCausalLM",
    defaults={**DEFAULTS, "head_dim": 128, "num_key_value_heads": 2, "rms_norm_eps": 1.5625e-7, "attention_bias": True},
    read=_read_glm,
    write=_write_glm,
    weight_map=_weight_map_glm,
)
GLM4 = replace(GLM, name="glm4", architecture="Glm4ForCausalLM", read=_read_glm4)
HELIUM = replace(
    LLAMA,
    name="helium",
    architecture="HeliumForCausalLM",
    defaults={**DEFAULTS, "head_dim": 128, "rms_norm_eps": 1e-8, "rope_theta": 100_000.0},
    read=_read_helium,
    write=_write_helium,
    weight_map=lambda config, names: map_interleaved_names(config, names, TENSORS),
)
