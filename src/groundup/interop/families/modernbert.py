"""ModernBERT: an encoder of today's parts: RoPE, GeGLU, norms before each part without biases, local layers.

Sources: Warner et al. 2024; transformers 5, models/modernbert.
"""

from groundup.interop.families.family import Family, Json, choice, inverse
from groundup.interop.families.positions import read_layers, read_two_ropes, write_layers, write_rope
from groundup.recipe import ModelConfig

KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "context_length": "max_position_embeddings",
    "norm_eps": "norm_eps",
    "norm_bias": "norm_bias",
    "feed_forward_bias": "mlp_bias",
    "tie_embeddings": "tie_word_embeddings",
}
DEFAULTS: Json = {
    "norm_eps": 1e-5,
    "norm_bias": False,
    "mlp_bias": False,
    "attention_bias": False,
    "hidden_activation": "gelu",
    "local_attention": 128,
    "global_attn_every_n_layers": 3,
    "tie_word_embeddings": True,
}
FIXED: Json = {"classifier_activation": "gelu", "classifier_bias": False, "decoder_bias": True}
THETAS = (160_000.0, 10_000.0)
ACTIVATIONS = {"gelu": "geglu", "gelu_pytorch_tanh": "geglu_tanh", "silu": "swiglu"}


def _read(json: Json) -> Json:
    every = json["global_attn_every_n_layers"]
    types = ["sliding_attention" if i % every else "full_attention" for i in range(json["num_hidden_layers"])]
    # local_attention counts both sides; our window counts one side and the token itself.
    window = json["local_attention"] // 2 + 1
    return {
        "architecture": "encoder",
        "norm": "layernorm",
        "embedding_norm": True,
        "attention_bias": "all" if json["attention_bias"] else "none",
        "feed_forward": choice(json, "hidden_activation", ACTIVATIONS),
        **read_layers(json.get("layer_types") or types, window),
        **read_two_ropes(json, "global_rope_theta", "local_rope_theta", THETAS),
    }


def _write(config: ModelConfig) -> Json:
    layers = write_layers(config)
    every = next((i for i in range(1, len(layers)) if layers[i] == "full_attention"), len(layers))
    rope = write_rope(config)
    local = config.rope_theta if config.rope_local_theta is None else config.rope_local_theta
    return {
        "hidden_activation": inverse(ACTIVATIONS, config.feed_forward),
        "attention_bias": config.attention_bias != "none",
        "local_attention": 2 * ((config.sliding_window or 1) - 1),
        "layer_types": layers,
        "global_attn_every_n_layers": every,
        "global_rope_theta": rope["rope_theta"],
        "local_rope_theta": local,
        "rope_scaling": rope["rope_scaling"],
    }
