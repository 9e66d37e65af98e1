"""GPT-NeoX, Pythia."""

from family_draws.draw import Draw, DrawnModel


def draw_gpt_neox(draw: Draw) -> DrawnModel:
    heads = draw.choice((1, 3, 5))
    head_dim = draw.head_width(heads, (16, 24, 64, 80))
    scaling = draw.choice((None, None, {"rope_type": "linear", "factor": 2.0}))
    return DrawnModel(
        {
            **draw.sizes(),
            "model_type": "gpt_neox",
            "num_attention_heads": heads,
            "hidden_size": heads * head_dim,
            "use_parallel_residual": draw.chance(),
            "rotary_pct": draw.choice((0.25, 0.5, 1.0)),
            "rotary_emb_base": draw.choice((1e4, 1e5)),
            "rope_scaling": scaling,
            "hidden_act": draw.choice(("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu")),
            "attention_bias": draw.chance(0.7),
            "tie_word_embeddings": draw.chance(0.3),
            "layer_norm_eps": draw.choice((1e-5, 1e-3)),
        }
    )  # fmt: skip


DRAWS = {"gpt_neox": draw_gpt_neox}
