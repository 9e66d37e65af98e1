"""Phi-1, Phi-1.5, Phi-2."""

from family_draws.draw import Draw, DrawnModel


def draw_phi(draw: Draw) -> DrawnModel:
    qk_norm = draw.chance(0.3)
    fields = draw.heads(free_head_dim=False)
    heads = fields["num_attention_heads"]
    if not qk_norm and draw.chance(0.3):
        fields["head_dim"] = draw.choice((16, 64))
    return DrawnModel(
        {
            **draw.sizes(), **fields, **draw.rope(),
            "model_type": "phi",
            "hidden_size": heads * draw.head_width(heads, (16, 24, 64, 80)),
            "partial_rotary_factor": draw.choice((0.25, 0.5, 1.0)),
            "qk_layernorm": qk_norm,
            "hidden_act": draw.choice(("gelu_new", "gelu")),
            "layer_norm_eps": draw.choice((1e-5, 1e-3)),
            "tie_word_embeddings": draw.chance(0.3),
        }
    )  # fmt: skip


DRAWS = {"phi": draw_phi}
