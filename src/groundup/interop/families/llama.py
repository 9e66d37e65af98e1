"""Llama and its variants: Mistral (sliding window), Qwen2 (biases), Qwen3 (norms of queries and keys).

Sources: the configuration and modelling files of transformers 5, models/{llama,mistral,qwen2,qwen3}.
"""

from dataclasses import replace

from groundup.artifacts.errors import UserError
from groundup.interop.families.family import Family, Json, inverse_map_value, map_value
from groundup.interop.families.rope_config import read_layers, read_rope, write_layers, write_rope
from groundup.interop.weight_map import prefix_map
from groundup.recipe import ModelConfig

KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "intermediate_size": "intermediate_size",
    "context_length": "max_position_embeddings",
    "norm_eps": "rms_norm_eps",
    "tie_embeddings": "tie_word_embeddings",
}
DEFAULTS: Json = {
    "num_key_value_heads": None,
    "head_dim": None,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "hidden_act": "silu",
}
ACTIVATIONS = {
    "silu": "swiglu", "gelu": "geglu", "gelu_pytorch_tanh": "geglu_tanh", "swish": "swiglu", "gelu_python": "geglu",
    "gelu_new": "geglu_tanh", "gelu_fast": "geglu_tanh", "gelu_accurate": "geglu_tanh", "gelu_python_tanh": "geglu_tanh",
}  # fmt: skip
"""Activations of gated feed-forwards, and the other names that transformers has for them."""

BIASES = {False: "none", True: "all"}
TENSORS = {
    "embedding.tokens.": "model.embed_tokens.",
    "blocks.*.attention_norm.": "model.layers.*.input_layernorm.",
    "blocks.*.attention.": "model.layers.*.self_attn.",
    "blocks.*.feed_forward_norm.": "model.layers.*.post_attention_layernorm.",
    "blocks.*.feed_forward.": "model.layers.*.mlp.",
    "final_norm.": "model.norm.",
    "head.": "lm_head.",
}
"""Below these prefixes the names are equal: q_proj, k_proj, ..., gate_proj, up_proj, down_proj."""

BUFFERS = ("*.rotary_emb.inv_freq", "*.attention.masked_bias", "*.attn.masked_bias")
"""Constants in older files."""


def read_decoder(json: Json) -> Json:
    """Knobs of every Llama-like decoder."""
    return {"feed_forward": map_value(json, "hidden_act", ACTIVATIONS), "norm": "rmsnorm", **read_rope(json)}


def write_decoder(config: ModelConfig) -> Json:
    return {"hidden_act": inverse_map_value(ACTIVATIONS, config.feed_forward), **write_rope(config)}


def _read_llama(json: Json) -> Json:
    if json["hidden_size"] % json["num_attention_heads"]:
        raise UserError(
            f"hidden_size = {json['hidden_size']} is not divisible by num_attention_heads = "
            f"{json['num_attention_heads']}"
        )
    biases = {"attention_bias": map_value(json, "attention_bias", BIASES), "feed_forward_bias": json["mlp_bias"]}
    return read_decoder(json) | biases


def _write_llama(config: ModelConfig) -> Json:
    biases = {"attention_bias": config.attention_bias != "none", "mlp_bias": config.feed_forward_bias}
    return write_decoder(config) | biases


def _read_mistral(json: Json) -> Json:
    return read_decoder(json) | read_layers(["sliding_attention"], json.get("sliding_window"))


def _write_mistral(config: ModelConfig) -> Json:
    return write_decoder(config) | {"sliding_window": config.sliding_window}


def read_qwen_layers(json: Json) -> Json:
    """The sliding window of the later layers, which Qwen's files may declare without using it."""
    window = json.get("sliding_window") if json.get("use_sliding_window") else None
    first = json.get("max_window_layers", 28)
    count = json["num_hidden_layers"]
    types = ["sliding_attention" if i >= first else "full_attention" for i in range(count)]
    return read_layers(json.get("layer_types") or types, window)


def write_qwen_layers(config: ModelConfig) -> Json:
    kinds = config.layer_types
    if "local" not in kinds:
        return {"use_sliding_window": False, "sliding_window": None}
    return {
        "use_sliding_window": True,
        "sliding_window": config.sliding_window,
        "max_window_layers": kinds.index("local"),
        "layer_types": write_layers(config),
    }


def _read_qwen2(json: Json) -> Json:
    return read_decoder(json) | read_qwen_layers(json) | {"attention_bias": "qkv"}


def _write_qwen2(config: ModelConfig) -> Json:
    return write_decoder(config) | write_qwen_layers(config)


def _read_qwen3(json: Json) -> Json:
    bias = map_value(json, "attention_bias", BIASES)
    return read_decoder(json) | read_qwen_layers(json) | {"attention_bias": bias, "qk_norm": True}


def _write_qwen3(config: ModelConfig) -> Json:
    bias = {"attention_bias": config.attention_bias != "none"}
    return write_decoder(config) | write_qwen_layers(config) | bias


LLAMA = Family(
    name="llama",
    architecture="LlamaForCausalLM",
    keys=KEYS,
    defaults=DEFAULTS,
    read=_read_llama,
    write=_write_llama,
    weight_map=prefix_map(TENSORS),
    ignored=BUFFERS,
)
MISTRAL = replace(
    LLAMA, name="mistral", architecture="MistralForCausalLM", defaults={**DEFAULTS, "sliding_window": 4096},
    read=_read_mistral, write=_write_mistral,
)  # fmt: skip
QWEN2 = replace(
    LLAMA, name="qwen2", architecture="Qwen2ForCausalLM", read=_read_qwen2, write=_write_qwen2
)  # fmt: skip
QWEN3 = replace(
    LLAMA, name="qwen3", architecture="Qwen3ForCausalLM", defaults={**DEFAULTS, "head_dim": 128},
    read=_read_qwen3, write=_write_qwen3,
)  # fmt: skip
