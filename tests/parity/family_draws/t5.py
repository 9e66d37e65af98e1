"""T5 v1.1, Flan-T5."""

from family_draws.draw import VOCABULARY, Draw, DrawnModel


def draw_t5(draw: Draw) -> DrawnModel:
    return DrawnModel(
        {
            "model_type": "t5",
            "vocab_size": VOCABULARY,
            "d_model": draw.choice((24, 42, 64)),
            "d_kv": draw.choice((7, 10, 64)),
            "d_ff": draw.choice((48, 71)),
            "num_layers": draw.randint(1, 3),
            "num_decoder_layers": draw.randint(1, 3),
            "num_heads": draw.choice((1, 3, 5)),
            "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": False,
            "relative_attention_num_buckets": draw.choice((14, 32)),
            "relative_attention_max_distance": draw.choice((20, 128)),
            "decoder_start_token_id": 0,
        },
        "T5ForConditionalGeneration",
    )


DRAWS = {"t5": draw_t5}
