"""GPT-Neo."""

from family_draws.draw import VOCABULARY, Draw, DrawnModel


def draw_gpt_neo(draw: Draw) -> DrawnModel:
    heads, repeats = draw.choice((1, 3, 5)), draw.randint(1, 2)
    pattern = draw.choice((["global", "local"], ["global"], ["local", "local", "global"]))
    return DrawnModel(
        {
            "model_type": "gpt_neo",
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 96,
            "hidden_size": heads * draw.head_width(heads, (7, 14, 26, 64)),
            "num_layers": len(pattern) * repeats,
            "attention_types": [[pattern, repeats]],
            "num_heads": heads,
            "intermediate_size": draw.choice((None, 71)),
            "window_size": draw.choice((5, 17, 256)),
            "activation_function": draw.choice(("gelu_new", "gelu")),
            "layer_norm_epsilon": draw.choice((1e-5, 1e-3)),
            "tie_word_embeddings": draw.chance(0.7),
        }
    )


DRAWS = {"gpt_neo": draw_gpt_neo}
