"""StableLM: Llama with LayerNorm and partial rotation; some with parallel blocks.

Sources: Bellagente et al. 2024 (StableLM 2); transformers 5, models/stablelm.
"""

from groundup.artifacts.errors import UserError
from groundup.interop.families.family import Family, Json, inverse_map_value, map_value
from groundup.interop.families.gpt_neox import LAYERNORM
from groundup.interop.families.llama import ACTIVATIONS, BUFFERS, TENSORS
from groundup.interop.families.llama import KEYS as LLAMA_KEYS
from groundup.interop.families.rope_config import read_partial_rope, write_partial_rotary, write_rope
from groundup.interop.weight_map import prefix_map
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
}
FIXED: Json = {"qk_layernorm": False}


def _read(json: Json) -> Json:
    derived = json["hidden_size"] // json["num_attention_heads"]
    if json.get("head_dim") not in (None, derived):
        raise UserError(f"head_dim = {json['head_dim']}, expected {derived} in a stablelm model")
    return {
        **LAYERNORM,
        **read_partial_rope(json, 0.25),
        "norm_placement": map_value(json, "use_parallel_residual", {True: "parallel", False: "pre"}),
        "shared_norm": json["use_parallel_residual"],
        "attention_bias": map_value(json, "use_qkv_bias", {False: "none", True: "qkv"}),
        "feed_forward": map_value(json, "hidden_act", ACTIVATIONS),
    }


def _write(config: ModelConfig) -> Json:
    return write_rope(config) | {
        "partial_rotary_factor": write_partial_rotary(config),
        "use_parallel_residual": config.norm_placement == "parallel",
        "use_qkv_bias": config.attention_bias != "none",
        "hidden_act": inverse_map_value(ACTIVATIONS, config.feed_forward),
    }


STABLELM = Family(
    name="stablelm",
    architecture="StableLmForCausalLM",
    keys=KEYS,
    defaults=DEFAULTS,
    fixed=FIXED,
    read=_read,
    write=_write,
    weight_map=prefix_map(TENSORS),
    ignored=BUFFERS,
)
