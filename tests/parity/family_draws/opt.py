"""OPT, BioGPT."""

from family_draws.draw import VOCABULARY, Draw, DrawnModel


def draw_opt(draw: Draw) -> DrawnModel:
    return DrawnModel(
        {
            **draw.heads(free_head_dim=False, grouped=False),
            "model_type": "opt",
            "vocab_size": VOCABULARY,
            "num_hidden_layers": draw.randint(1, 2),
            "max_position_embeddings": 96,
            "ffn_dim": draw.choice((24, 71)),
            "do_layer_norm_before": draw.chance(0.7),
            "activation_function": draw.choice(("relu", "gelu")),
            "enable_bias": draw.chance(0.8),
            "tie_word_embeddings": draw.chance(0.7),
        }
    )  # fmt: skip


def draw_biogpt(draw: Draw) -> DrawnModel:
    return DrawnModel(
        {
            **draw.sizes(), **draw.heads(free_head_dim=False, grouped=False),
            "model_type": "biogpt",
            "hidden_act": draw.choice(("gelu", "relu")),
            "scale_embedding": draw.chance(0.7),
            "tie_word_embeddings": draw.chance(0.7),
        }
    )  # fmt: skip


DRAWS = {"opt": draw_opt, "biogpt": draw_biogpt}
