"""BLOOM, MPT."""

from family_draws.draw import VOCABULARY, Draw, DrawnModel


def draw_bloom(draw: Draw) -> DrawnModel:
    heads = draw.choice((1, 2, 3, 5, 8, 12))
    return DrawnModel(
        {
            "model_type": "bloom",
            "vocab_size": VOCABULARY,
            "seq_length": 96,
            "hidden_size": heads * draw.head_width(heads, (7, 14, 26, 64)),
            "n_layer": draw.randint(1, 2),
            "n_head": heads,
            "layer_norm_epsilon": draw.choice((1e-5, 1e-3)),
            "tie_word_embeddings": draw.chance(0.7),
        }
    )


def draw_mpt(draw: Draw) -> DrawnModel:
    heads = draw.choice((1, 2, 3, 5, 8, 12))
    return DrawnModel(
        {
            "model_type": "mpt",
            "vocab_size": VOCABULARY,
            "max_seq_len": 96,
            "d_model": heads * draw.head_width(heads, (7, 14, 26, 64)),
            "n_layers": draw.randint(1, 2),
            "n_heads": heads,
            "attn_config": {"softmax_scale": draw.choice((None, 0.2))},
            "layer_norm_epsilon": draw.choice((1e-5, 1e-3)),
            "tie_word_embeddings": draw.chance(0.7),
        }
    )


DRAWS = {"bloom": draw_bloom, "mpt": draw_mpt}
