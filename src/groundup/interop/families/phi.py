"""Phi-1, Phi-1.5 and Phi-2: parallel blocks with one norm, partial rotation, a bias everywhere.

Sources: Gunasekar et al. 2023; Li et al. 2023; transformers 5, models/phi.
"""

from groundup.artifacts.errors import UserError
from groundup.interop.families.family import Family, Json, inverse_map_value, map_value
from groundup.interop.families.gpt_neox import LAYERNORM, PLAIN_ACTIVATIONS
from groundup.interop.families.llama import BUFFERS
from groundup.interop.families.llama import KEYS as LLAMA_KEYS
from groundup.interop.families.rope_config import read_partial_rope, write_partial_rotary, write_rope
from groundup.interop.weight_map import prefix_map
from groundup.recipe import ModelConfig

KEYS = {**LLAMA_KEYS, "norm_eps": "layer_norm_eps"}
DEFAULTS: Json = {
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "gelu_new",
    "max_position_embeddings": 2048,
    "layer_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "qk_layernorm": False,
}
LAYER = "model.layers.*."
TENSORS = {
    "embedding.tokens.": "model.embed_tokens.",
    "blocks.*.attention_norm.": LAYER + "input_layernorm.",
    "blocks.*.attention.o_proj.": LAYER + "self_attn.dense.",
    "blocks.*.attention.q_norm.": LAYER + "self_attn.q_layernorm.",
    "blocks.*.attention.k_norm.": LAYER + "self_attn.k_layernorm.",
    "blocks.*.attention.": LAYER + "self_attn.",
    "blocks.*.feed_forward.up_proj.": LAYER + "mlp.fc1.",
    "blocks.*.feed_forward.down_proj.": LAYER + "mlp.fc2.",
    "final_norm.": "model.final_layernorm.",
    "head.": "lm_head.",
}


def _read(json: Json) -> Json:
    derived = json["hidden_size"] // json["num_attention_heads"]
    if json["qk_layernorm"] and json["head_dim"] not in (None, derived):
        raise UserError(f"head_dim = {json['head_dim']} with qk_layernorm, expected {derived}")
    return {
        **LAYERNORM,
        **read_partial_rope(json, 0.5),
        "norm_placement": "parallel",
        "shared_norm": True,
        "attention_bias": "all",
        "qk_norm": json["qk_layernorm"],
        "feed_forward": map_value(json, "hidden_act", PLAIN_ACTIVATIONS),
        "feed_forward_bias": True,
        "head_bias": True,
    }


def _write(config: ModelConfig) -> Json:
    return write_rope(config) | {
        "partial_rotary_factor": write_partial_rotary(config),
        "qk_layernorm": config.qk_norm,
        "hidden_act": inverse_map_value(PLAIN_ACTIVATIONS, config.feed_forward),
    }


PHI = Family(
    name="phi",
    architecture="PhiForCausalLM",
    keys=KEYS,
    defaults=DEFAULTS,
    read=_read,
    write=_write,
    weight_map=prefix_map(TENSORS),
    ignored=BUFFERS,
)
