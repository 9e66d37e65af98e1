"""StableLM."""

from family_draws.draw import Draw, DrawnModel


def draw_stablelm(draw: Draw) -> DrawnModel:
    fields = draw.heads(free_head_dim=False)
    heads = fields["num_attention_heads"]
    return DrawnModel(
        {
            **draw.sizes(), **fields, **draw.rope(),
            "model_type": "stablelm",
            "hidden_size": heads * draw.head_width(heads, (16, 24, 64, 80)),
            "partial_rotary_factor": draw.choice((0.25, 0.5, 1.0)),
            "qk_layernorm": draw.chance(0.3),
            "use_qkv_bias": draw.chance(),
            "use_parallel_residual": draw.chance(),
            "hidden_act": draw.choice(("silu", "gelu")),
            "layer_norm_eps": draw.choice((1e-5, 1e-3)),
            "tie_word_embeddings": draw.chance(0.3),
        }
    )  # fmt: skip


DRAWS = {"stablelm": draw_stablelm}
