"""T5 v1.1 and Flan-T5: an encoder and a decoder, positions by distance, attention without a scale, GeGLU.

Sources: Raffel et al. 2020; Shazeer 2020 (the gated feed-forward of v1.1); transformers 5, models/t5.
"""

from groundup.interop.families.family import Family, Json, choice, inverse
from groundup.recipe import ModelConfig

KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "d_model",
    "num_encoder_layers": "num_layers",
    "num_heads": "num_heads",
    "head_dim": "d_kv",
    "intermediate_size": "d_ff",
    "relative_buckets": "relative_attention_num_buckets",
    "relative_max_distance": "relative_attention_max_distance",
    "norm_eps": "layer_norm_epsilon",
    "tie_embeddings": "tie_word_embeddings",
}
DEFAULTS: Json = {
    "d_kv": 64,
    "num_decoder_layers": None,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "relu",
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "n_positions": 512,
}
ACTIVATIONS = {"gated-gelu": "geglu_tanh", "gated-silu": "swiglu"}
"""Of the feed-forward: the plain ReLU of the first T5 is not among ours."""


def _read(json: Json) -> Json:
    start = json.get("decoder_start_token_id")
    return {
        "architecture": "encoder_decoder",
        "num_layers": json["num_decoder_layers"] or json["num_layers"],
        "context_length": json["n_positions"],
        "positions": "relative",
        "attention_scale": 1.0,
        "feed_forward": choice(json, "feed_forward_proj", ACTIVATIONS),
        # A tied head sees states made smaller (mesh-tensorflow's rule, kept by transformers).
        "logit_scale": json["d_model"] ** -0.5 if json["tie_word_embeddings"] else 1.0,
        "decoder_start_id": json["pad_token_id"] if start is None else start,
    }


def _write(config: ModelConfig) -> Json:
    return {
        "is_encoder_decoder": True,
        "num_decoder_layers": config.num_layers,
        "n_positions": config.context_length,
        "feed_forward_proj": inverse(ACTIVATIONS, config.feed_forward),
        "decoder_start_token_id": config.decoder_start_id,
        "pad_token_id": config.decoder_start_id,
    }
