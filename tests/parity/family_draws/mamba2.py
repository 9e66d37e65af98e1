"""Mamba-2."""

from family_draws.draw import VOCABULARY, Draw, DrawnModel


def draw_mamba2(draw: Draw) -> DrawnModel:
    groups, per_group = draw.choice((1, 2, 3)), draw.choice((1, 2, 3))
    heads, expand = groups * per_group, draw.choice((1, 2))
    head_dim = draw.head_width(heads, (6, 16, 64)) * expand
    return DrawnModel(
        {
            "model_type": "mamba2",
            "vocab_size": VOCABULARY,
            "num_hidden_layers": draw.randint(1, 2),
            "num_heads": heads,
            "head_dim": head_dim,
            "expand": expand,
            "hidden_size": heads * head_dim // expand,
            "state_size": draw.choice((5, 16)),
            "n_groups": groups,
            "conv_kernel": draw.choice((2, 4)),
            "use_bias": draw.chance(),
            "use_conv_bias": draw.chance(),
            "layer_norm_epsilon": draw.choice((1e-5, 1e-3)),
            "tie_word_embeddings": draw.chance(),
            "chunk_size": draw.choice((7, 256)),
        }
    )


DRAWS = {"mamba2": draw_mamba2}
