"""T5, T5 v1.1, Flan-T5, mT5, UMT5."""

from family_draws.draw import VOCABULARY, Draw, DrawnModel

ACTIVATIONS = ("relu", "gated-gelu", "gated-silu", "gelu", "gelu_new", "silu")


def _draw_as(model_type: str, draw: Draw) -> DrawnModel:
    return DrawnModel(
        {
            "model_type": model_type,
            "vocab_size": VOCABULARY,
            "d_model": draw.choice((24, 42, 64)),
            "d_kv": draw.choice((7, 10, 64)),
            "d_ff": draw.choice((48, 71)),
            "num_layers": draw.randint(1, 2),
            "num_decoder_layers": draw.choice((None, 1, 2, 3)),
            "num_heads": draw.choice((1, 3, 5)),
            "feed_forward_proj": draw.choice(ACTIVATIONS),
            "tie_word_embeddings": draw.chance(),
            "relative_attention_num_buckets": draw.choice((14, 32)),
            "relative_attention_max_distance": draw.choice((20, 128)),
            "layer_norm_epsilon": draw.choice((1e-6, 1e-5)),
            "decoder_start_token_id": 0,
        },
        "AutoModelForSeq2SeqLM",
    )


DRAWS = {
    "t5": lambda draw: _draw_as("t5", draw),
    "mt5": lambda draw: _draw_as("mt5", draw),
    "umt5": lambda draw: _draw_as("umt5", draw),
}
