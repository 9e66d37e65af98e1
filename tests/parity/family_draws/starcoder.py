"""StarCoder (GPT-BigCode), StarCoder2."""

from family_draws.draw import VOCABULARY, Draw, DrawnModel


def draw_gpt_bigcode(draw: Draw) -> DrawnModel:
    heads = draw.choice((1, 3, 5))
    return DrawnModel(
        {
            "model_type": "gpt_bigcode",
            "vocab_size": VOCABULARY,
            "n_positions": 96,
            "n_embd": heads * draw.head_width(heads, (7, 14, 26, 64)),
            "n_layer": draw.randint(1, 2),
            "n_head": heads,
            "n_inner": draw.choice((None, 71)),
            "multi_query": draw.chance(0.7),
            "activation_function": draw.choice(("gelu_pytorch_tanh", "gelu")),
            "tie_word_embeddings": draw.chance(0.7),
        }
    )


def draw_starcoder2(draw: Draw) -> DrawnModel:
    return DrawnModel(
        {
            **draw.sizes(), **draw.heads(), **draw.rope(),
            "model_type": "starcoder2",
            "sliding_window": draw.choice((None, 7, 4096)),
            "use_bias": draw.chance(0.7),
            "hidden_act": draw.choice(("gelu_pytorch_tanh", "gelu", "relu")),
            "norm_epsilon": draw.choice((1e-5, 1e-3)),
            "tie_word_embeddings": draw.chance(0.7),
        }
    )  # fmt: skip


DRAWS = {"gpt_bigcode": draw_gpt_bigcode, "starcoder2": draw_starcoder2}
