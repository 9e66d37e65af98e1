"""OLMo 1, 2 and 3, EXAONE 4."""

from family_draws.draw import Draw, DrawnModel


def _shape(draw: Draw, free_head_dim: bool = True) -> dict:
    return {
        **draw.sizes(), **draw.heads(free_head_dim), **draw.rope(),
        "attention_bias": draw.chance(),
        "tie_word_embeddings": draw.chance(),
        "hidden_act": draw.choice(("silu", "gelu", "gelu_pytorch_tanh")),
        "pad_token_id": None,
        "eos_token_id": 2,
    }  # fmt: skip


def draw_olmo(draw: Draw) -> DrawnModel:
    return DrawnModel({**_shape(draw), "model_type": "olmo"})


def draw_olmo2(draw: Draw) -> DrawnModel:
    return DrawnModel({**_shape(draw), "model_type": "olmo2", "rms_norm_eps": draw.choice((1e-5, 1e-6))})


def draw_olmo3(draw: Draw) -> DrawnModel:
    layers = draw.choice((1, 3, 4, 5))
    fields = {
        **_shape(draw),
        "model_type": "olmo3",
        "num_hidden_layers": layers,
        "sliding_window": draw.choice((7, 64)),
    }
    if draw.chance(0.3):
        fields["layer_types"] = [draw.choice(("full_attention", "sliding_attention")) for _ in range(layers)]
    return DrawnModel(fields)


def draw_exaone4(draw: Draw) -> DrawnModel:
    layers = draw.choice((1, 3, 4, 5))
    fields = {**_shape(draw), "model_type": "exaone4", "num_hidden_layers": layers}
    del fields["attention_bias"]
    if draw.chance(0.3):  # the smallest: full attention, all layers rotated
        return DrawnModel({**fields, "sliding_window": None, "layer_types": ["full_attention"] * layers})
    fields["sliding_window"] = draw.choice((7, 64))
    if draw.chance():
        fields["sliding_window_pattern"] = draw.choice((2, 4))
    else:
        fields["sliding_window_pattern"] = "LLLG"
        fields["layer_types"] = [draw.choice(("full_attention", "sliding_attention")) for _ in range(layers)]
    return DrawnModel(fields)


DRAWS = {"olmo": draw_olmo, "olmo2": draw_olmo2, "olmo3": draw_olmo3, "exaone4": draw_exaone4}
