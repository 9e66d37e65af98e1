"""Falcon."""

from family_draws.draw import VOCABULARY, Draw, DrawnModel


def draw_falcon(draw: Draw) -> DrawnModel:
    fields = draw.heads(free_head_dim=False)
    kv_heads = fields.pop("num_key_value_heads")
    grouped = draw.chance()
    blocks = {
        "new_decoder_architecture": grouped,
        "num_kv_heads": kv_heads if grouped else None,
        "num_ln_in_parallel_attn": draw.choice((None, 1, 2)) if grouped else None,
        "multi_query": draw.chance(0.7),
        "parallel_attn": grouped or draw.chance(0.7),
    }
    return DrawnModel(
        {
            **fields, **draw.rope(), **blocks,
            "model_type": "falcon",
            "vocab_size": VOCABULARY,
            "num_hidden_layers": draw.randint(1, 2),
            "max_position_embeddings": 96,
            "ffn_hidden_size": draw.choice((None, 71)),
            "bias": draw.chance(0.3),
            "activation": draw.choice(("gelu", "relu")),
            "layer_norm_epsilon": draw.choice((1e-5, 1e-3)),
            "tie_word_embeddings": draw.chance(0.7),
        }
    )  # fmt: skip


DRAWS = {"falcon": draw_falcon}
