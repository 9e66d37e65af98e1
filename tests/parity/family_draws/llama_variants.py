"""SmolLM3, Granite, Seed-OSS, Ministral, Arcee, nanochat."""

from family_draws.draw import Draw, DrawnModel

ROPE_WITHOUT_FACTOR = (
    None,
    {"rope_type": "linear", "factor": 3.0},
    {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
)


def _shape(draw: Draw, *biases: str, free_head_dim: bool = True) -> dict:
    return {
        **draw.sizes(), **draw.heads(free_head_dim), **draw.rope(),
        **{bias: draw.chance() for bias in biases},
        "tie_word_embeddings": draw.chance(),
        "hidden_act": draw.choice(("silu", "gelu", "gelu_pytorch_tanh")),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": None,
    }  # fmt: skip


def draw_smollm3(draw: Draw) -> DrawnModel:
    layers = draw.choice((1, 4, 5))
    fields = {**_shape(draw, "attention_bias", "mlp_bias"), "model_type": "smollm3", "num_hidden_layers": layers}
    if draw.chance():
        fields |= {"use_sliding_window": True, "sliding_window": draw.choice((7, 64))}
    if draw.chance():
        fields["no_rope_layers"] = [draw.choice((0, 1)) for _ in range(layers)]
    else:
        fields["no_rope_layer_interval"] = draw.choice((2, 4))
    return DrawnModel(fields)


def draw_granite(draw: Draw) -> DrawnModel:
    return DrawnModel(
        {
            **_shape(draw, "attention_bias", "mlp_bias"),
            "model_type": "granite",
            "embedding_multiplier": draw.choice((1.0, 12.0)),
            "residual_multiplier": draw.choice((1.0, 0.22)),
            "attention_multiplier": draw.choice((0.015625, 0.3)),
            "logits_scaling": draw.choice((1.0, 8.0, 3.0)),
        }
    )


def draw_seed_oss(draw: Draw) -> DrawnModel:
    fields = {**_shape(draw, "attention_bias", "mlp_bias"), "model_type": "seed_oss"}
    return DrawnModel(
        {
            **fields,
            "head_dim": draw.choice((8, 22, 64)),
            "attention_out_bias": fields["attention_bias"] and draw.chance(),
        }
    )


def draw_ministral(draw: Draw) -> DrawnModel:
    layers = draw.choice((1, 3, 4))
    fields = {**_shape(draw), "model_type": "ministral", "num_hidden_layers": layers}
    fields["head_dim"] = draw.choice((8, 22, 64))  # transformers has no default
    fields["sliding_window"] = draw.choice((7, 64))
    if draw.chance():
        fields["layer_types"] = [draw.choice(("full_attention", "sliding_attention")) for _ in range(layers)]
    return DrawnModel(fields)


def draw_ministral3(draw: Draw) -> DrawnModel:
    rope = {
        "rope_type": "yarn",
        "rope_theta": draw.choice((1e4, 1e6)),
        "factor": draw.choice((2.0, 16.0)),
        "original_max_position_embeddings": draw.choice((40, 64)),
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "llama_4_scaling_beta": draw.choice((0.1, 0.3)),
        **draw.choice(({}, {"mscale": 1.0, "mscale_all_dim": 1.0})),
    }
    fields = {**_shape(draw), "model_type": "ministral3", "head_dim": draw.choice((8, 22, 64)), "rope_parameters": rope}
    fields["sliding_window"] = draw.choice((None, 9))
    fields["max_position_embeddings"] = 96
    for key in ("rope_theta", "rope_scaling", "original_max_position_embeddings"):
        fields.pop(key, None)
    return DrawnModel(fields)


def draw_arcee(draw: Draw) -> DrawnModel:
    activation = draw.choice(("relu2", "relu2", "gelu", "gelu_pytorch_tanh"))
    return DrawnModel({**_shape(draw, "attention_bias", "mlp_bias"), "model_type": "arcee", "hidden_act": activation})


def draw_nanochat(draw: Draw) -> DrawnModel:
    return DrawnModel(
        {
            **_shape(draw, "attention_bias", free_head_dim=False),
            "model_type": "nanochat",
            "max_position_embeddings": 96,
            "rope_scaling": draw.choice(ROPE_WITHOUT_FACTOR),
            "hidden_act": draw.choice(("relu2", "relu2", "gelu")),
            "final_logit_softcapping": draw.choice((None, 15.0, 3.0)),
        }
    )


DRAWS = {
    "smollm3": draw_smollm3,
    "granite": draw_granite,
    "seed_oss": draw_seed_oss,
    "ministral": draw_ministral,
    "ministral3": draw_ministral3,
    "arcee": draw_arcee,
    "nanochat": draw_nanochat,
}
