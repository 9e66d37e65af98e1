"""StableLM: Llama with LayerNorm and partial rotation; some with parallel blocks.

Sources: Bellagente et al. 2024 (StableLM 2); transformers 5, models/stablelm.
"""

from collections.abc import Iterator, Sequence

from groundup.artifacts.errors import UserError
from groundup.interop.families.family import Family, Json, inverse_map_value, map_value
from groundup.interop.families.gpt_neox import LAYERNORM
from groundup.interop.families.llama import ACTIVATIONS, BUFFERS, TENSORS
from groundup.interop.families.llama import KEYS as LLAMA_KEYS
from groundup.interop.families.rope_config import read_partial_rope, write_partial_rotary, write_rope
from groundup.interop.weight_map import TensorMap, map_joined, map_names
from groundup.recipe import ModelConfig

KEYS = {native: key for native, key in LLAMA_KEYS.items() if native != "head_dim"} | {"norm_eps": "layer_norm_eps"}
DEFAULTS: Json = {
    "num_key_value_heads": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "layer_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "use_qkv_bias": False,
    "use_parallel_residual": False,
    "qk_layernorm": False,
}


def _read(json: Json) -> Json:
    derived = json["hidden_size"] // json["num_attention_heads"]
    if json.get("head_dim") not in (None, derived):
        raise UserError(f"head_dim = {json['head_dim']}, expected {derived} in a stablelm model")
    return {
        **LAYERNORM,
        **read_partial_rope(json, 0.25),
        "norm_placement": map_value(json, "use_parallel_residual", {True: "parallel", False: "pre"}),
        "shared_norm": json["use_parallel_residual"],
        "qk_norm": json["qk_layernorm"],
        "qk_norm_type": "per_head" if json["qk_layernorm"] else "head",
        "attention_bias": map_value(json, "use_qkv_bias", {False: "none", True: "qkv"}),
        "feed_forward": map_value(json, "hidden_act", ACTIVATIONS),
    }


def _write(config: ModelConfig) -> Json:
    return write_rope(config) | {
        "partial_rotary_factor": write_partial_rotary(config),
        "use_parallel_residual": config.norm_placement == "parallel",
        "qk_layernorm": config.qk_norm,
        "use_qkv_bias": config.attention_bias != "none",
        "hidden_act": inverse_map_value(ACTIVATIONS, config.feed_forward),
    }


def _weight_map(config: ModelConfig, names: Sequence[str]) -> Iterator[TensorMap]:
    """The norms of queries and keys, each of a head and separate in the file, and the other tensors."""
    heads = {"q_norm": config.num_heads, "k_norm": config.num_kv_heads}
    for name in names:
        part = name.split(".")[-2]
        if part in heads:
            prefix = f"model.layers.{name.split('.')[1]}.self_attn.{part[0]}_layernorm.norms"
            yield map_joined(name, [f"{prefix}.{head}.weight" for head in range(heads[part])])
    yield from map_names([name for name in names if name.split(".")[-2] not in heads], TENSORS)


STABLELM = Family(
    name="stablelm",
    architecture="StableLmForCausalLM",
    keys=KEYS,
    defaults=DEFAULTS,
    read=_read,
    write=_write,
    weight_map=_weight_map,
    ignored=BUFFERS,
)
