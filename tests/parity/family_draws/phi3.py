"""Phi-3, Phi-3.5 and Phi-4."""

from family_draws.draw import Draw, DrawnModel


def draw_phi3(draw: Draw) -> DrawnModel:
    heads = draw.choice((1, 3, 5))
    head_dim = draw.head_width(heads, (16, 24, 64, 96))
    partial = draw.choice((1.0, 0.75, 0.5))
    pairs = int(head_dim * partial) // 2
    fields = {
        **draw.sizes(),
        "model_type": "phi3",
        "num_attention_heads": heads,
        "num_key_value_heads": draw.choice((1, heads)),
        "hidden_size": heads * head_dim,
        "partial_rotary_factor": partial,
        "rope_theta": draw.choice((1e4, 2.5e5)),
        "sliding_window": draw.choice((None, 9, 2047)),
        "hidden_act": draw.choice(("silu", "gelu")),
        "tie_word_embeddings": draw.chance(),
        "pad_token_id": None,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if draw.chance(0.7):
        fields["original_max_position_embeddings"] = draw.choice((24, 30, 96))
        fields["rope_scaling"] = {
            "rope_type": "longrope",
            "short_factor": [draw.uniform(1.0, 1.2) for _ in range(pairs)],
            "long_factor": [draw.uniform(1.0, 40.0) for _ in range(pairs)],
        }
        if draw.chance(0.3):
            fields["rope_scaling"] |= draw.choice(({"factor": 3.0}, {"attention_factor": 1.3}))
    return DrawnModel(fields)


DRAWS = {"phi3": draw_phi3}
