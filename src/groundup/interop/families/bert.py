"""BERT: an encoder with the norm after each residual sum, learned positions and segments.

Sources: Devlin et al. 2019; transformers 5, models/bert.
"""

from groundup.interop.families.family import Family, Json, choice, inverse
from groundup.recipe import ModelConfig

KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "context_length": "max_position_embeddings",
    "norm_eps": "layer_norm_eps",
    "num_token_types": "type_vocab_size",
    "tie_embeddings": "tie_word_embeddings",
}
DEFAULTS: Json = {
    "layer_norm_eps": 1e-12,
    "type_vocab_size": 2,
    "tie_word_embeddings": True,
    "hidden_act": "gelu",
}
FIXED: Json = {"is_decoder": False, "add_cross_attention": False, "position_embedding_type": "absolute"}
ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}


def _read(json: Json) -> Json:
    return {
        "architecture": "encoder",
        "norm": "layernorm",
        "norm_bias": True,
        "norm_placement": "post",
        "embedding_norm": True,
        "positions": "learned",
        "attention_bias": "all",
        "feed_forward": choice(json, "hidden_act", ACTIVATIONS),
        "feed_forward_bias": True,
    }


def _write(config: ModelConfig) -> Json:
    return {"hidden_act": inverse(ACTIVATIONS, config.feed_forward)}
