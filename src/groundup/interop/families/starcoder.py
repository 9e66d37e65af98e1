"""StarCoder (GPT-BigCode) and StarCoder2: code models with multi-query and grouped-query attention.

Sources: Li et al. 2023 (StarCoder); Lozhkov et al. 2024 (StarCoder2); transformers 5, models/{gpt_bigcode,starcoder2}.
"""

from groundup.interop.families.family import Family, Json, inverse_map_value, map_value
from groundup.interop.families.gpt2 import KEYS as GPT2_KEYS
from groundup.interop.families.gpt2 import TENSORS as GPT2_TENSORS
from groundup.interop.families.gpt_neox import LAYERNORM, PLAIN_ACTIVATIONS, map_fused
from groundup.interop.families.gptj import GPT_ALIASES
from groundup.interop.families.llama import BIASES, BUFFERS
from groundup.interop.families.llama import KEYS as LLAMA_KEYS
from groundup.interop.families.llama import TENSORS as LLAMA_TENSORS
from groundup.interop.families.rope_config import read_layers, read_rope, write_rope
from groundup.interop.weight_map import prefix_map
from groundup.recipe import ModelConfig

BIGCODE_DEFAULTS: Json = {
    "n_inner": None,
    "n_positions": 1024,
    "layer_norm_epsilon": 1e-5,
    "activation_function": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "multi_query": True,
}
STARCODER2_DEFAULTS: Json = {
    "num_key_value_heads": 2,
    "head_dim": None,
    "hidden_act": "gelu_pytorch_tanh",
    "max_position_embeddings": 4096,
    "norm_epsilon": 1e-5,
    "sliding_window": None,
    "use_bias": True,
    "tie_word_embeddings": True,
}
STARCODER2_TENSORS = {
    "blocks.*.feed_forward.up_proj.": "model.layers.*.mlp.c_fc.",
    "blocks.*.feed_forward.down_proj.": "model.layers.*.mlp.c_proj.",
    **LLAMA_TENSORS,
}


def _read_bigcode(json: Json) -> Json:
    return {
        **LAYERNORM,
        "num_kv_heads": 1 if json["multi_query"] else json["n_head"],
        "position_embedding": "learned",
        "attention_bias": "all",
        "feed_forward": map_value(json, "activation_function", PLAIN_ACTIVATIONS),
        "feed_forward_bias": True,
    }


def _write_bigcode(config: ModelConfig) -> Json:
    return {
        "multi_query": config.num_kv_heads == 1,
        "activation_function": inverse_map_value(PLAIN_ACTIVATIONS, config.feed_forward),
    }


def _read_starcoder2(json: Json) -> Json:
    return {
        **LAYERNORM,
        **read_rope(json),
        **read_layers(["sliding_attention"], json["sliding_window"]),
        "attention_bias": map_value(json, "use_bias", BIASES),
        "feed_forward": map_value(json, "hidden_act", PLAIN_ACTIVATIONS),
        "feed_forward_bias": json["use_bias"],
    }


def _write_starcoder2(config: ModelConfig) -> Json:
    return write_rope(config) | {
        "sliding_window": config.sliding_window,
        "use_bias": config.feed_forward_bias,
        "hidden_act": inverse_map_value(PLAIN_ACTIVATIONS, config.feed_forward),
    }


GPT_BIGCODE = Family(
    name="gpt_bigcode",
    architecture="GPTBigCodeForCausalLM",
    keys=GPT2_KEYS,
    defaults=BIGCODE_DEFAULTS,
    key_aliases=GPT_ALIASES,
    fixed={"scale_attn_weights": True, "add_cross_attention": False},
    read=_read_bigcode,
    write=_write_bigcode,
    weight_map=lambda config, names: map_fused(config, names, "transformer.h.*.attn.c_attn.", GPT2_TENSORS),
    prefix="transformer.",
    embedding="transformer.wte.weight",
    ignored=("*.attn.bias", "*.attn.masked_bias"),
)
STARCODER2 = Family(
    name="starcoder2",
    architecture="Starcoder2ForCausalLM",
    keys={**LLAMA_KEYS, "norm_eps": "norm_epsilon"},
    defaults=STARCODER2_DEFAULTS,
    read=_read_starcoder2,
    write=_write_starcoder2,
    weight_map=prefix_map(STARCODER2_TENSORS),
    ignored=BUFFERS,
)
