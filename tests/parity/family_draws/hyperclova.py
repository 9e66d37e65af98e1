"""HyperCLOVA X, the Code World Model, Jais 2, Apertus."""

from family_draws.draw import Draw, DrawnModel
from family_draws.llama_variants import draw_arcee, draw_granite


def draw_hyperclovax(draw: Draw) -> DrawnModel:
    fields = {**draw_granite(draw).config, "model_type": "hyperclovax", "use_post_norm": draw.chance(0.7)}
    if draw.chance(0.3):
        del fields["attention_multiplier"]
    return DrawnModel({**fields, "logits_scaling": draw.choice((1.0, 0.125, 0.3))})


def _shape(draw: Draw, *biases: str) -> dict:
    fields = {
        **draw.sizes(), **draw.heads(free_head_dim=False), **draw.rope(),
        **{bias: draw.chance() for bias in biases},
        "tie_word_embeddings": draw.chance(),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": None,
    }  # fmt: skip
    if not fields["rope_scaling"]:  # their default is a scaling
        fields["rope_scaling"] = {"rope_type": "default", "rope_theta": fields["rope_theta"]}
    return fields


def draw_cwm(draw: Draw) -> DrawnModel:
    layers = draw.choice((1, 4, 5))
    fields = {**_shape(draw, "mlp_bias"), "model_type": "cwm", "num_hidden_layers": layers}
    fields |= {"head_dim": draw.choice((8, 22, 64)), "sliding_window": draw.choice((7, 64))}
    if draw.chance(0.3):
        fields["layer_types"] = [draw.choice(("full_attention", "sliding_attention")) for _ in range(layers)]
    return DrawnModel(fields)


def draw_jais2(draw: Draw) -> DrawnModel:
    fields = {**draw_arcee(draw).config, "model_type": "jais2"}
    return DrawnModel({**fields, "layer_norm_eps": draw.choice((1e-5, 1e-3))})


def draw_apertus(draw: Draw) -> DrawnModel:
    activation = draw.choice(("xielu", "xielu", "relu2"))
    return DrawnModel({**_shape(draw, "attention_bias"), "model_type": "apertus", "hidden_act": activation})


DRAWS = {"hyperclovax": draw_hyperclovax, "cwm": draw_cwm, "jais2": draw_jais2, "apertus": draw_apertus}
