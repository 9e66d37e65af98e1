"""Gemma 1, 2 and 3 (text)."""

from family_draws.draw import Draw, DrawnModel


def _sandwich(draw: Draw) -> dict:
    return {
        **draw.sizes(), **draw.heads(),
        "head_dim": draw.choice((12, 26, 64)),
        "sliding_window": draw.choice((10, 33)),
        "query_pre_attn_scalar": draw.choice((8, 19, 256)),
        "attention_bias": draw.chance(),
        "hidden_activation": draw.choice(("gelu_pytorch_tanh", "gelu", "silu")),
        "final_logit_softcapping": draw.choice((None, 3.0)),
        "tie_word_embeddings": draw.chance(0.7),
    }  # fmt: skip


def draw_gemma(draw: Draw) -> DrawnModel:
    return DrawnModel(
        {
            **draw.sizes(), **draw.heads(),
            "model_type": "gemma",
            "head_dim": draw.choice((8, 16, 64)),
            "attention_bias": draw.chance(),
            "rope_theta": draw.choice((1e4, 1e6)),
            "hidden_act": draw.choice(("gelu_pytorch_tanh", "gelu", "silu")),
        }
    )  # fmt: skip


def draw_gemma2(draw: Draw) -> DrawnModel:
    kinds = draw.choice((None, "full_attention", "sliding_attention"))
    fields = _sandwich(draw)
    fields |= {"layer_types": [kinds] * fields["num_hidden_layers"]} if kinds else {}
    return DrawnModel({**fields, "model_type": "gemma2", "attn_logit_softcapping": draw.choice((None, 4.0, 50.0))})


def draw_gemma3(draw: Draw) -> DrawnModel:
    scaling = draw.choice((None, {"rope_type": "linear", "factor": 8.0}))
    layers = draw.choice((2, 6, 7))
    return DrawnModel(
        {
            **_sandwich(draw),
            "model_type": "gemma3_text",
            "num_hidden_layers": layers,
            "rope_scaling": scaling,
            **draw.choice(({}, {"layer_types": ["full_attention"] * layers})),
        }
    )


DRAWS = {"gemma": draw_gemma, "gemma2": draw_gemma2, "gemma3_text": draw_gemma3}
