"""GPT-Neo: GPT-2's blocks with separate projections, unscaled attention scores and a sliding window in every second layer.

Sources: Black et al. 2021 (GPT-Neo); transformers 5, models/gpt_neo.
"""

from groundup.interop.families.family import Family, Json, inverse_map_value, map_value
from groundup.interop.families.gpt_neox import LAYERNORM, PLAIN_ACTIVATIONS
from groundup.interop.families.rope_config import read_layers
from groundup.interop.weight_map import prefix_map
from groundup.recipe import ModelConfig

KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_layers",
    "num_heads": "num_heads",
    "intermediate_size": "intermediate_size",
    "context_length": "max_position_embeddings",
    "norm_eps": "layer_norm_epsilon",
    "tie_embeddings": "tie_word_embeddings",
}
DEFAULTS: Json = {
    "intermediate_size": None,
    "max_position_embeddings": 2048,
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
    "activation_function": "gelu_new",
    "attention_types": [[["global", "local"], 12]],
    "window_size": 256,
}
LAYER_TYPES = {"global": "full_attention", "local": "sliding_attention"}
LAYER = "transformer.h.*."
TENSORS = {
    "embedding.tokens.": "transformer.wte.",
    "embedding.positions.": "transformer.wpe.",
    "blocks.*.attention_norm.": LAYER + "ln_1.",
    "blocks.*.attention.o_proj.": LAYER + "attn.attention.out_proj.",
    "blocks.*.attention.": LAYER + "attn.attention.",
    "blocks.*.feed_forward_norm.": LAYER + "ln_2.",
    "blocks.*.feed_forward.up_proj.": LAYER + "mlp.c_fc.",
    "blocks.*.feed_forward.down_proj.": LAYER + "mlp.c_proj.",
    "final_norm.": "transformer.ln_f.",
    "head.": "lm_head.",
}


def _read(json: Json) -> Json:
    """attention_types: pairs of a pattern of layers and its repetitions."""
    kinds = [kind for pattern, repeats in json["attention_types"] for kind in pattern * repeats]
    return {
        **LAYERNORM,
        **read_layers([LAYER_TYPES.get(kind, str(kind)) for kind in kinds], json["window_size"]),
        "position_embedding": "learned",
        "attention_bias": "output",
        "attention_scale": 1.0,
        "feed_forward": map_value(json, "activation_function", PLAIN_ACTIVATIONS),
        "feed_forward_bias": True,
    }


def _write(config: ModelConfig) -> Json:
    return {
        "attention_types": [[list(config.layer_types), 1]],
        "window_size": config.sliding_window or DEFAULTS["window_size"],
        "activation_function": inverse_map_value(PLAIN_ACTIVATIONS, config.feed_forward),
    }


GPT_NEO = Family(
    name="gpt_neo",
    architecture="GPTNeoForCausalLM",
    keys=KEYS,
    defaults=DEFAULTS,
    key_aliases={"num_hidden_layers": "num_layers", "num_attention_heads": "num_heads"},
    read=_read,
    write=_write,
    weight_map=prefix_map(TENSORS),
    prefix="transformer.",
    embedding="transformer.wte.weight",
    ignored=("*.attn.attention.bias", "*.attn.attention.masked_bias"),
)
