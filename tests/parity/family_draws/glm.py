"""GLM-4, Helium, Cohere, Nemotron: partial or interleaved rotation."""

from family_draws.draw import ROPE_SCALINGS, Draw, DrawnModel


def _shape(draw: Draw, *biases: str) -> dict:
    return {
        **draw.sizes(), **draw.heads(free_head_dim=False),
        **{bias: draw.chance() for bias in biases},
        "rope_theta": draw.choice((1e4, 5e5)),
        "tie_word_embeddings": draw.chance(),
        "hidden_act": draw.choice(("silu", "gelu", "gelu_pytorch_tanh")),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": None,
    }  # fmt: skip


def _partial(draw: Draw) -> dict:
    scaling = draw.choice([scaling for scaling in ROPE_SCALINGS if (scaling or {}).get("rope_type") != "dynamic"])
    return {
        "head_dim": draw.choice((8, 16, 64)),
        "partial_rotary_factor": draw.choice((0.5, 0.25, 1.0)),
        "rope_scaling": scaling,
    }


def draw_glm(draw: Draw) -> DrawnModel:
    return DrawnModel({**_shape(draw, "attention_bias"), **_partial(draw), "model_type": "glm"})


def draw_glm4(draw: Draw) -> DrawnModel:
    return DrawnModel({**_shape(draw, "attention_bias"), **_partial(draw), "model_type": "glm4"})


def draw_helium(draw: Draw) -> DrawnModel:
    fields = {**_shape(draw, "attention_bias", "mlp_bias"), "model_type": "helium"}
    return DrawnModel({**fields, "head_dim": fields["hidden_size"] // fields["num_attention_heads"]})


def draw_cohere(draw: Draw) -> DrawnModel:
    return DrawnModel(
        {
            **_shape(draw, "attention_bias", "use_qk_norm"),
            "model_type": "cohere",
            "logit_scale": draw.choice((0.0625, 0.8333, 1.0)),
            "layer_norm_eps": draw.choice((1e-5, 1e-3)),
        }
    )


def draw_cohere2(draw: Draw) -> DrawnModel:
    layers = draw.choice((1, 3, 4, 5))
    fields = {
        **_shape(draw, "attention_bias"),
        "model_type": "cohere2",
        "num_hidden_layers": layers,
        "logit_scale": draw.choice((0.25, 0.0625)),
        "sliding_window": draw.choice((7, 64)),
    }
    if draw.chance():
        fields["sliding_window_pattern"] = draw.choice((2, 4))
    elif draw.chance():
        fields["layer_types"] = [draw.choice(("full_attention", "sliding_attention")) for _ in range(layers)]
    return DrawnModel(fields)


def draw_nemotron(draw: Draw) -> DrawnModel:
    activation = draw.choice(("relu2", "relu2", "gelu"))
    return DrawnModel(
        {
            **_shape(draw, "attention_bias", "mlp_bias"), **_partial(draw),
            "model_type": "nemotron",
            "hidden_act": activation,
            "norm_eps": draw.choice((1e-5, 1e-3)),
        }
    )  # fmt: skip


DRAWS = {
    "glm": draw_glm,
    "glm4": draw_glm4,
    "helium": draw_helium,
    "cohere": draw_cohere,
    "cohere2": draw_cohere2,
    "nemotron": draw_nemotron,
}
