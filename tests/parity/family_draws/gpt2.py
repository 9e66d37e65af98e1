"""GPT-2."""

from family_draws.draw import VOCABULARY, Draw, DrawnModel


def draw_gpt2(draw: Draw) -> DrawnModel:
    heads = draw.choice((1, 3, 5))
    return DrawnModel(
        {
            "model_type": "gpt2",
            "vocab_size": VOCABULARY,
            "n_positions": 96,
            "n_embd": heads * draw.head_width(heads, (7, 14, 26, 64)),
            "n_layer": draw.randint(1, 2),
            "n_head": heads,
            "n_inner": draw.choice((None, 71)),
            "activation_function": draw.choice(("gelu_new", "gelu", "relu")),
        }
    )


DRAWS = {"gpt2": draw_gpt2}
