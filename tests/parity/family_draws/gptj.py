"""GPT-J, CodeGen."""

from family_draws.draw import VOCABULARY, Draw, DrawnModel


def _gptj(draw: Draw, model_type: str, heads: tuple[int, ...]) -> DrawnModel:
    count = draw.choice(heads)
    head_dim = draw.head_width(count, (8, 20, 28, 64))
    return DrawnModel(
        {
            "model_type": model_type,
            "vocab_size": VOCABULARY,
            "n_positions": 96,
            "n_embd": count * head_dim,
            "n_layer": draw.randint(1, 2),
            "n_head": count,
            "n_inner": draw.choice((None, 71)),
            "rotary_dim": draw.choice((4, 6, head_dim)),
            "activation_function": draw.choice(("gelu_new", "gelu", "relu")),
            "layer_norm_epsilon": draw.choice((1e-5, 1e-3)),
            "tie_word_embeddings": draw.chance(0.3),
        }
    )


def draw_gptj(draw: Draw) -> DrawnModel:
    return _gptj(draw, "gptj", (1, 3, 5))


def draw_codegen(draw: Draw) -> DrawnModel:
    return _gptj(draw, "codegen", (1, 3, 4, 8))


DRAWS = {"gptj": draw_gptj, "codegen": draw_codegen}
